"""An S3 server on loopback, and a proxy before it that counts requests and breaks them on demand."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3

_HOP = {"connection", "transfer-encoding", "content-length", "server", "date"}


@dataclass
class Request:
    """One request that the proxy saw: what was asked, and the bytes of the answer's body that were sent."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Fault:
    """What becomes of a request that matches, `times` times.

    `before` changes its headers on the way to the server; `instead` answers in its place (status, code); `after` takes
    the server's whole answer and may send what it likes of it.
    """

    matches: Callable[[Request], bool]
    times: int = 1_000_000
    instead: tuple[int, str] | None = None
    without_header: str = ""
    delay: float = 0.0
    answer: str = ""  # "reset": none; "half": half of the body; "lost": the server's work is done, and no answer
    then: Callable[[], object] = lambda: None
    hits: int = 0


class Proxy:
    """Forwards to an S3 server. `log` holds all requests; `faults` are tried in order."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # moto may lose one of two parts of an upload that come at the same moment
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do(self) -> None:
                proxy.handle(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are the point
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def counts(self) -> dict[str, int]:
        return dict(Counter(request.method for request in self.log))

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = Request(handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()})
        body = handler.rfile.read(int(request.headers.get("content-length", 0)))
        with self._lock:
            self.log.append(request)
            fault = next((f for f in self.faults if f.hits < f.times and f.matches(request)), None)
            if fault:
                fault.hits += 1
        fault = fault or Fault(lambda _: False)
        time.sleep(fault.delay)
        if fault.instead:
            status, code = fault.instead
            data = f"<Error><Code>{code}</Code><Message>\x7f injected</Message></Error>".encode() if code else b"<html>"
            self._answer(handler, request, status, {"Content-Type": "application/xml"}, data)
            return
        if fault.answer == "reset":
            _reset(handler)
            return
        headers = {k: v for k, v in handler.headers.items() if k.lower() != fault.without_header}
        headers.pop("Transfer-Encoding", None)
        headers.pop("Expect", None)
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        with nullcontext() if request.method in ("GET", "HEAD") else self._writing:
            connection.request(request.method, request.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        length = answer.headers.get("Content-Length")
        connection.close()
        fault.then()
        if fault.answer == "lost":
            _reset(handler)
            return
        found = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        half = len(data) // 2 if fault.answer == "half" else None
        claimed = int(length) if length and request.method == "HEAD" else len(data)
        self._answer(handler, request, answer.status, found, data, claimed, half)

    def _answer(
        self,
        handler: BaseHTTPRequestHandler,
        request: Request,
        status: int,
        headers: dict[str, str],
        data: bytes,
        claimed: int | None = None,
        cut: int | None = None,
    ) -> None:
        request.status = status
        handler.send_response_only(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data) if claimed is None else claimed))
        handler.end_headers()
        if request.method != "HEAD":
            request.sent = len(data[:cut])
            with suppress(OSError):  # the client has gone
                handler.wfile.write(data[:cut])
        if cut is not None:
            handler.close_connection = True


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


@contextmanager
def s3_server() -> Iterator[str]:
    """moto's server; its URL. It holds everything in memory and believes every key."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@cache
def raw_client(url: str) -> Any:
    """boto3 as anybody would use it, to look at the server without the code under test."""
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1")


def new_bucket(url: str) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    raw_client(url).create_bucket(Bucket=name)
    return name
