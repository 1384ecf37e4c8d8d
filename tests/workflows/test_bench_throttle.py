"""The proxy that holds a store to a bandwidth: what passes is unchanged, by http and through a tunnel, and takes its time."""

import http.client
import os
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nwc_workflows.bench import throttle as module
from nwc_workflows.bench.throttle import Line, Proxy, throttled

DATA = bytes(range(256)) * 2000


class Echo(BaseHTTPRequestHandler):
    """GET gives DATA, or the part that the path names; POST gives back what was sent."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        size = int(self.path.rpartition("/")[2] or len(DATA))
        self.answer(DATA[:size])

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Host", self.headers["Host"])
        self.end_headers()
        self.wfile.write(data)


def serving(server):
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture
def server():
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Echo)) as running:
        yield running
        running.shutdown()


@pytest.fixture
def proxy():
    with serving(Proxy(1e9)) as running:
        yield running
        running.shutdown()


def test_requests_pass_unchanged_on_one_connection(server, proxy):
    client = http.client.HTTPConnection("127.0.0.1", proxy.server_address[1], timeout=20)
    host = f"127.0.0.1:{server.server_port}"
    for method, path, body, wanted in (
        ("GET", "/", None, DATA),
        ("GET", "/a/b/1000", None, DATA[:1000]),
        ("POST", "/x?y=%2F", DATA[::-1], DATA[::-1]),
        ("GET", "", None, DATA),
    ):
        client.request(method, f"http://{host}{path}", body, {"Host": "the.bucket"})
        answer = client.getresponse()
        assert (answer.read(), answer.headers["X-Host"]) == (wanted, "the.bucket")
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Echo)) as other:
        client.request("GET", f"http://127.0.0.1:{other.server_port}/7")
        assert client.getresponse().read() == DATA[:7]
        other.shutdown()


def test_a_tunnel_passes_bytes(server, proxy):
    client = http.client.HTTPConnection("127.0.0.1", proxy.server_address[1], timeout=20)
    client.set_tunnel("127.0.0.1", server.server_port)
    for size in (0, 5, len(DATA)):
        client.request("GET", f"/{size}")
        assert client.getresponse().read() == DATA[:size]


def test_a_server_that_is_not_there_is_a_connection_that_ends(proxy):
    client = http.client.HTTPConnection("127.0.0.1", proxy.server_address[1], timeout=20)
    client.request("GET", "http://127.0.0.1:1/")
    with pytest.raises(http.client.RemoteDisconnected):
        client.getresponse()


def test_a_line_carries_one_thing_after_the_other(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", slept.append)
    line = Line(500.0)
    for nbytes in (1000, 250):
        line.pass_on(nbytes)
    now[0] = 110.0
    line.pass_on(100)
    now[0] = 120.0
    line.pass_on(1)  # that is made up for
    assert slept == pytest.approx([2.0 - module._BURST, 2.5 - module._BURST, 0.2 - module._BURST])


def test_no_byte_comes_sooner_than_the_line_lets_it(server):
    before = dict(os.environ)
    os.environ["NO_PROXY"] = "127.0.0.1"
    bandwidth = 4e6
    with throttled(bandwidth), ThreadPoolExecutor(4) as pool:
        started = time.monotonic()
        url = f"http://127.0.0.1:{server.server_port}/"
        for data in pool.map(lambda _: urllib.request.urlopen(url, timeout=20).read(), range(4)):
            assert data == DATA
        assert time.monotonic() - started >= 4 * len(DATA) / bandwidth - module._BURST
        assert os.environ["http_proxy"].startswith("http://127.0.0.1:")
    assert os.environ.pop("NO_PROXY") == "127.0.0.1"
    assert dict(os.environ) == {name: value for name, value in before.items() if name != "NO_PROXY"}
