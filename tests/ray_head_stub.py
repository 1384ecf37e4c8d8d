"""What a Ray head answers over HTTP to who submits jobs, without a Ray behind it; and what it was asked."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StubHead:
    """A head.

    Attributes:
        jobs: what it knows, by id; a submission adds a PENDING one.
        logs: of jobs, by id.
        packages: what was uploaded: name to the files in it.
        token: that it asks for, if any.
        hello: answer to the question for its version; None for one of its own.
    """

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    packages: dict[str, dict[str, bytes]] = field(default_factory=dict)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    token: str | None = None
    hello: tuple[int, str] | None = None
    address: str = ""

    def add(self, job: str, status: str, **more: Any) -> None:
        """A job that it knows."""
        self.jobs[job] = {
            "type": "SUBMISSION",
            "submission_id": job,
            "job_id": None,
            "status": status,
            "entrypoint": "python -m nwc_workflows.cli",
            "start_time": 1_700_000_000_000 + 1000 * len(self.jobs),
            **more,
        }

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        kind, _, rest = path.removeprefix("/api/").partition("/")
        if kind == "version":
            return self.hello or (200, json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}))
        if kind == "packages":
            return self._package(method, rest.rpartition("/")[2], body)
        if kind != "jobs":
            return 404, "404: Not Found"
        job, _, action = rest.partition("/")
        if not job:
            return self._submit(json.loads(body)) if method == "POST" else (200, json.dumps(list(self.jobs.values())))
        if job not in self.jobs:
            return 404, f"Job {job} does not exist"
        if action == "logs":
            return 200, json.dumps({"logs": self.logs.get(job, "")})
        if action == "stop":
            self.jobs[job]["status"] = "STOPPED"
            return 200, json.dumps({"stopped": True})
        return 200, json.dumps(self.jobs[job])

    def _package(self, method: str, name: str, body: bytes) -> tuple[int, str]:
        if method == "PUT":
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                self.packages[name] = {
                    each: archive.read(each) for each in archive.namelist() if not each.endswith("/")
                }
        return (200, "{}") if name in self.packages else (404, "no such package")

    def _submit(self, asked: dict[str, Any]) -> tuple[int, str]:
        self.submissions.append(asked)
        job = f"raysubmit_{len(self.submissions)}"
        self.add(job, "PENDING", entrypoint=asked["entrypoint"], metadata=asked["metadata"])
        return 200, json.dumps({"job_id": job, "submission_id": job})


@contextmanager
def stub_head(**settings: Any) -> Iterator[StubHead]:
    """A head on a port of loopback."""
    head = StubHead(**settings)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent = self.headers.get("Authorization")
            status, text = head.answer(self.command, self.path, body)
            if head.token is not None and sent is None:
                status, text = 401, "Unauthorized: Missing authentication token"
            elif head.token is not None and sent != f"Bearer {head.token}":
                status, text = 403, "Forbidden: Invalid authentication token"
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = _do  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    head.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield head
    finally:
        server.shutdown()
        server.server_close()
