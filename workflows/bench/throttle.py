"""A line of limited bandwidth: an HTTP proxy on loopback, through which what a store sends comes no faster than that.

All connections share the line, as they share a network card. boto3 and huggingface_hub go through a proxy that the
environment names; requests by http:// are handed on one by one, those by https:// as the tunnel that they ask for. The
proxy is a process of its own: its work is none of the reader's.
"""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_CHUNK = 256 << 10  # bytes that are sent at once; at 1 Gbit/s two milliseconds
_BURST = 0.02  # seconds of the bandwidth that a line makes up for: whoever sleeps, or waits for a core, wakes late
_MAX_HEAD = 64 << 10
_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Line:
    """Bytes that are sent on it take their time, one after the other, whoever sends them.

    Args:
        bandwidth: bytes per second.
    """

    def __init__(self, bandwidth: float) -> None:
        self._bandwidth = bandwidth
        self._free = 0.0  # when it will be
        self._lock = threading.Lock()

    def pass_on(self, nbytes: int) -> None:
        """Returns when so many bytes have passed."""
        with self._lock:
            self._free = max(self._free, time.monotonic() - _BURST) + nbytes / self._bandwidth
            wait = self._free - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class Proxy(socketserver.ThreadingTCPServer):
    """The proxy; `serve_forever` runs it.

    Attributes:
        url: its address.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, bandwidth: float) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.line = Line(bandwidth)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever hangs up has reasons; the other side hears of it as a closed connection."""


class _Client(socketserver.StreamRequestHandler):
    server: Proxy
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """One connection of a client: requests until it hangs up."""
        upstream: socket.socket | None = None
        at: tuple[str, int] | None = None
        try:
            while head := self._head():
                method, target, version = head[0].split(b" ")
                if method == b"CONNECT":
                    host, _, port = target.decode().rpartition(":")
                    upstream = self._connect((host.strip("[]"), int(port)), b"HTTP/1.1 200 OK\r\n\r\n")
                    self._send_on(upstream, None)
                    return
                url = urlsplit(target.decode())
                if at != (url.hostname or "", url.port or 80):
                    if upstream is not None:
                        upstream.close()
                    at = url.hostname or "", url.port or 80
                    upstream = self._connect(at)
                path = target.decode()[len(f"{url.scheme}://{url.netloc}") :] or "/"
                assert upstream is not None
                upstream.sendall(b"\r\n".join([b" ".join([method, path.encode(), version]), *head[1:], b"", b""]))
                self._send_on(upstream, _content_length(head))
        finally:
            if upstream is not None:
                upstream.close()

    def _head(self) -> list[bytes]:
        """The lines of a request's head; none at the end."""
        lines: list[bytes] = []
        size = 0
        while line := self.rfile.readline(_MAX_HEAD):
            size += len(line)
            if line == b"\r\n":
                return lines
            if size > _MAX_HEAD or not line.endswith(b"\r\n"):
                break
            lines.append(line[:-2])
        return []

    def _connect(self, address: tuple[str, int], answer: bytes = b"") -> socket.socket:
        """A connection to a server, whose answers go back to the client from now on."""
        upstream = socket.create_connection(address, 30)
        upstream.settimeout(None)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.sendall(answer)
        threading.Thread(target=self._send_back, args=(upstream,), daemon=True).start()
        return upstream

    def _send_on(self, upstream: socket.socket, left: int | None) -> None:
        """What the client sends, so many bytes, or all until it hangs up."""
        while left is None or left:
            data = self.rfile.read1(_CHUNK if left is None else min(left, _CHUNK))
            if not data:
                break
            upstream.sendall(data)
            left = None if left is None else left - len(data)

    def _send_back(self, upstream: socket.socket) -> None:
        buffer = memoryview(bytearray(_CHUNK))
        with suppress(OSError):
            while size := upstream.recv_into(buffer):
                self.server.line.pass_on(size)
                self.connection.sendall(buffer[:size])
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _content_length(head: list[bytes]) -> int:
    for line in head[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


@contextmanager
def throttled(bandwidth: float) -> Iterator[None]:
    """Have all HTTP of this process, from connections that are made inside the block, go through such a line.

    Args:
        bandwidth: bytes per second.
    """
    command = [sys.executable, "-m", __name__, str(bandwidth)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    before = {name: os.environ.pop(name, None) for lower in _VARIABLES for name in (lower, lower.upper())}
    try:
        os.environ["http_proxy"] = os.environ["https_proxy"] = process.stdout.readline().strip()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        process.stdin.close()  # at which it ends, as it does if this process is killed
        process.wait()
        process.stdout.close()


def main() -> None:
    """`python -m nwc_workflows.bench.throttle BANDWIDTH`: says its address, and ends with its standard input."""
    with Proxy(float(sys.argv[1])) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        print(proxy.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
