"""An HTTP proxy on loopback between the tests and a server: it records every request, and does harm on demand.

Whether a request is harmed depends on a seed, the request, and how often the same request was seen before: not on the
order in which concurrent requests arrive, so that a run can be repeated.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Kind = Literal[
    "500 InternalError",
    "503 SlowDown",
    "403 ExpiredToken",
    "delay",
    "reset before the request",
    "reset after the request",
    "reset within the body",
    "truncated body",
    "slow",
]
_CHUNK = 16 << 10
_HOP_BY_HOP = ("connection", "expect", "keep-alive", "transfer-encoding", "content-length")


@dataclass(frozen=True)
class Fault:
    """What is done to some requests.

    Attributes:
        kind: "reset after the request": the server has done it, but the client never hears. "reset within the body" and
            "truncated body" send half of a response's body, then a RST or a FIN; they need a body and leave other
            requests alone. "slow" sends `rate` bytes per second, both ways.
        probability: of harming a request that the fault applies to.
        methods: of the requests it applies to.
        path: part of the paths it applies to.
        times: at most so often.
        after: not before it has applied so often.
        seconds: length of a delay.
        rate: bytes per second.
    """

    kind: Kind
    probability: float = 1.0
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    path: str = ""
    times: int = 1 << 30
    after: int = 0
    seconds: float = 0.5
    rate: float = 1e6


@dataclass
class Request:
    """A request and what became of it: `received` and `sent` count bytes of bodies, from and to the client."""

    method: str
    path: str
    range: str | None
    status: int = 0
    received: int = 0
    sent: int = 0
    fault: str | None = None


@dataclass
class _Armed:
    fault: Fault
    seed: int
    done: int = 0
    seen: Counter[tuple[str, str, str | None]] = field(default_factory=Counter)


class FaultsProxy:
    """The proxy; `with` starts and stops it.

    Attributes:
        endpoint: its URL.
        requests: everything since `clear`, in the order of arrival.
        on_request: called in the middle of a request that is handed on: the server has its head and half of its body;
            before the server hears of it, if it has no body.
    """

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.requests: list[Request] = []
        self.on_request: Callable[[Request], None] = lambda request: None
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultsProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forget the requests, the faults and the hook."""
        with self._lock:
            self.requests, self._armed = [], []
            self.on_request = lambda request: None

    @contextmanager
    def inject(self, *faults: Fault, seed: int = 0) -> Iterator[None]:
        """Do harm inside the block; the first fault that a request draws is the one it has."""
        with self._lock:
            self._armed = [_Armed(fault, seed + number) for number, fault in enumerate(faults)]
        try:
            yield
        finally:
            with self._lock:
                self._armed = []

    def harmed(self) -> list[Request]:
        """The requests since `clear` that were harmed."""
        with self._lock:
            return [request for request in self.requests if request.fault]

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def choose(self, request: Request) -> Fault | None:
        """The fault for a request, if it is to have one."""
        url = urlsplit(request.path)
        parts = "".join(parse_qs(url.query).get("partNumber", []))  # upload ids differ from run to run
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if request.method not in fault.methods or fault.path not in request.path or armed.done >= fault.times:
                    continue
                same = (request.method, f"{url.path} {parts}", request.range)
                armed.seen[same] += 1
                if armed.seen.total() <= fault.after:
                    continue
                dice = random.Random(f"{armed.seed} {same} {armed.seen[same]}")
                if dice.random() < fault.probability:
                    armed.done += 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultsProxy
    protocol_version = "HTTP/1.1"  # connections stay open; also answers "Expect: 100-continue"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """No log."""

    def _forward(self) -> None:
        request = Request(self.command, self.path, self.headers.get("Range"))
        self.proxy.record(request)  # now: whoever has read the whole answer must find it
        fault = self.proxy.choose(request)
        kind = fault.kind if fault else None
        body = self._read_body(request, fault.rate if fault and kind == "slow" else None)
        if fault and kind == "delay":
            request.fault = kind
            time.sleep(fault.seconds)
        if kind in ("500 InternalError", "503 SlowDown", "403 ExpiredToken"):
            request.fault = kind
            self._answer_error(request, kind)
        elif kind == "reset before the request":
            request.fault = kind
            self._reset()
        else:
            self._relay(request, body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815

    def _read_body(self, request: Request, rate: float | None) -> bytes:
        size, parts = int(self.headers.get("Content-Length", 0)), []
        while request.received < size:
            data = self.rfile.read(min(_CHUNK, size - request.received))
            if not data:
                raise ConnectionError("the client hung up")
            parts.append(data)
            request.received += len(data)
            if rate:
                time.sleep(len(data) / rate)
        return b"".join(parts)

    def _relay(self, request: Request, body: bytes, fault: Fault | None) -> None:
        """Ask the server and hand on its answer."""
        kind = fault.kind if fault else None
        try:
            answer = self._ask(request, body)
            data = answer.read()
        except (OSError, http.client.HTTPException):  # the server is gone: so is the connection to it
            request.status = 0
            self._reset()
            return
        request.status = answer.status
        if kind == "reset after the request":
            request.fault = kind
            self._reset()
            return
        half = len(data) // 2
        if kind not in ("reset within the body", "truncated body") or half == 0:
            half = None
        if half is not None or kind == "slow":
            request.fault = kind
        head = [f"{self.protocol_version} {answer.status} {answer.reason}"]
        head += [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        if answer.status not in (204, 304) and length is not None:
            head.append(f"Content-Length: {length}")
        self.wfile.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        self._send(request, data[:half], fault.rate if fault and kind == "slow" else None)
        if kind == "reset within the body" and half is not None:
            self._reset()
        elif half is not None:
            self.close_connection = True

    def _ask(self, request: Request, body: bytes) -> http.client.HTTPResponse:
        server = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream_port, timeout=60)
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                server.putheader(name, value)
        if body or self.command in ("PUT", "POST"):
            server.putheader("Content-Length", str(len(body)))
        server.putheader("Connection", "close")
        if not body:
            self.proxy.on_request(request)
        server.endheaders()
        if body:
            half = len(body) // 2
            server.send(body[:half])
            self.proxy.on_request(request)
            server.send(body[half:])
        return server.getresponse()

    def _send(self, request: Request, data: bytes, rate: float | None) -> None:
        for start in range(0, len(data), _CHUNK if rate else max(1, len(data))):
            part = data[start : start + _CHUNK] if rate else data
            request.sent += len(part)
            self.wfile.write(part)
            if rate:
                time.sleep(len(part) / rate)

    def _answer_error(self, request: Request, kind: str) -> None:
        status, code = kind.split()
        request.status = int(status)
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        body = b"" if self.command == "HEAD" else body
        self.send_response_only(request.status, code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        """A RST instead of a FIN: what a crashed server or a firewall sends."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
