"""A Hugging Face Hub on loopback: the few endpoints that reading needs, and a second server that large files lie on."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3  # files in one answer of the tree
LFS_NBYTES = 1000  # from here on a file is a large one
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Seen:
    """One request: to which of the two servers, and what came of it."""

    server: str
    path: str
    headers: dict[str, str]
    status: int = 0


@dataclass
class Fault:
    """What becomes of a request that matches, `times` times: an answer, or the first `cut` bytes of the right one."""

    matches: Callable[[Seen], bool]
    times: int = 1_000_000
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    ignores_range: bool = False


class Hub:
    """`commits` holds the files of each commit, `branches` names commits, `token` is asked for if it is set."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.log: list[Seen] = []
        self.faults: list[Fault] = []
        self.token = ""
        self._servers = [self._start(name) for name in ("hub", "files")]
        self.url, self.files_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def push(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A new commit on a branch; its digest."""
        commit = hashlib.sha1(repr((repo, branch, len(self.commits))).encode()).hexdigest()
        self.commits[repo, commit] = dict(files)
        self.branches[repo, branch] = commit
        return commit

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _start(self, name: str) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub._answer(self, name)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _answer(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        seen = Seen(name, handler.path, {key.lower(): value for key, value in handler.headers.items()})
        self.log.append(seen)
        fault = next((fault for fault in self.faults if fault.times > 0 and fault.matches(seen)), None)
        if fault is not None:
            fault.times -= 1
        if fault is not None and fault.status:
            seen.status, headers, body = fault.status, dict(fault.headers), fault.body
        elif name == "files":
            seen.status, headers, body = self._blob(seen, fault is not None and fault.ignores_range)
        elif self.token and seen.headers.get("authorization") != f"Bearer {self.token}":
            seen.status, headers, body = 401, {"X-Error-Message": "Invalid username or password."}, b""
        else:
            seen.status, headers, body = self._hub(seen, fault is not None and fault.ignores_range)
        handler.send_response_only(seen.status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        cut = None if fault is None else fault.cut
        handler.wfile.write(body[:cut])
        handler.close_connection = cut is not None

    def _hub(self, seen: Seen, whole: bool) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(seen.path)
        if found := re.fullmatch(r"/api/models/(.+)/revision/([^/]+)", url.path):
            repo, revision = found[1], unquote(found[2])
            if not any(name == repo for name, _ in self.branches):
                return _error("RepoNotFound", "Repository not found")
            commit = self.branches.get((repo, revision))
            return _json({"id": repo, "sha": commit}) if commit else _error("RevisionNotFound", "Invalid rev id")
        if found := re.fullmatch(r"/api/models/(.+)/tree/([0-9a-f]{40})/?", url.path):
            return self._tree(found[1], found[2], int(parse_qs(url.query).get("cursor", ["0"])[0]))
        if found := re.fullmatch(r"/(.+)/resolve/([0-9a-f]{40})/(.+)", url.path):
            files = self.commits.get((found[1], found[2]))
            data = None if files is None else files.get(unquote(found[3]))
            if data is None:
                return _error("EntryNotFound", "Entry not found")
            if len(data) < LFS_NBYTES:
                return _ranged(seen, data, whole)
            where = f"{self.files_url}/{hashlib.sha256(data).hexdigest()}?signature=secret"
            return 302, {"Location": where, "X-Linked-Size": str(len(data))}, b""
        return 404, {}, b""

    def _blob(self, seen: Seen, whole: bool) -> tuple[int, dict[str, str], bytes]:
        digest = urlsplit(seen.path).path[1:]
        for files in self.commits.values():
            for data in files.values():
                if hashlib.sha256(data).hexdigest() == digest:
                    return _ranged(seen, data, whole)
        return 404, {}, b""

    def _tree(self, repo: str, commit: str, cursor: int) -> tuple[int, dict[str, str], bytes]:
        files = self.commits.get((repo, commit))
        if files is None:
            return _error("RevisionNotFound", "Invalid rev id")
        folders = {"/".join(path.split("/")[:n]) for path in files for n in range(1, path.count("/") + 1)}
        entries: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders]
        for path, data in files.items():
            entry = {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}
            if len(data) >= LFS_NBYTES:
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        status, headers, body = _json(entries[cursor : cursor + PAGE])
        if cursor + PAGE < len(entries):
            path = f"/api/models/{repo}/tree/{commit}?recursive=true&cursor={cursor + PAGE}"
            headers["Link"] = f'<{self.url}{path}>; rel="next"'
        return status, headers, body


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _error(code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"error": message}).encode()
    return 404, {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}, body


def _ranged(seen: Seen, data: bytes, whole: bool) -> tuple[int, dict[str, str], bytes]:
    asked = _RANGE.fullmatch(seen.headers.get("range", ""))
    if asked is None or whole:
        return 200, {"Accept-Ranges": "bytes"}, data
    first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
    if first >= len(data):
        return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
    return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]
