"""The way to a cluster's head, and what is said when it leads nowhere."""

import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ray_head_stub import stub_head

from nwc_core.errors import NwcError, UsageError
from nwc_infra import jobs as module
from nwc_infra.job_token import Token, find_token
from nwc_infra.jobs import JobServer, UnreachableError


@pytest.fixture
def head():
    with stub_head() as running:
        yield running


def test_jobs_are_listed_oldest_first_and_drivers_left_out(head):
    head.add("b", "FAILED", driver_exit_code=3, message="m", end_time=1_700_000_009_000)
    head.add("a", "RUNNING")
    head.jobs["01000000"] = {**head.jobs["a"], "type": "DRIVER", "submission_id": None, "job_id": "01000000"}
    first, second = JobServer(head.address).list()
    assert (first.id, first.exit_code, first.has_ended, first.message) == ("b", 3, True, "m")
    assert first.ended == datetime(2023, 11, 14, 22, 13, 29, tzinfo=UTC)
    assert (second.id, second.exit_code, second.has_ended, second.ended) == ("a", None, False, None)


def test_an_explicit_address_is_not_replaced_by_one_from_the_environment(head, monkeypatch):
    head.add("here", "RUNNING")
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert [info.id for info in JobServer(head.address + "/").list()] == ["here"]


def test_a_job_that_is_not_known_is_named(head):
    server = JobServer(head.address)
    for ask in (server.info, server.logs, server.stop):
        with pytest.raises(NwcError, match=r"knows no job 'raysubmit_x'; `nwc jobs list`"):
            ask("raysubmit_x")


def test_a_token_is_asked_for_refused_and_never_shown():
    with stub_head(token="right") as head:
        with pytest.raises(NwcError, match="asks for a token; wanted --token-file"):
            JobServer(head.address)
        with pytest.raises(NwcError, match=r"refuses the token \(from the test\)") as refused:
            JobServer(head.address, Token("wrong-one", "the test"))
        assert "wrong-one" not in str(refused.value)
        server = JobServer(head.address, Token("right", "the test"))
        assert server.list() == []
        head.token = "another"  # replaced while we were connected
        with pytest.raises(NwcError, match="refuses the token"):
            server.list()
        assert "right" not in repr(Token("right", "the test"))


@pytest.mark.parametrize("hello", [(200, "<html>a login page</html>"), (404, "not here"), (200, "{}"), (200, "[]")])
def test_another_server_is_not_taken_for_a_head(hello):
    with (
        stub_head(hello=hello) as head,
        pytest.raises(NwcError, match=rf"HTTP {hello[0]}\), but it is no Ray dashboard"),
    ):
        JobServer(head.address)


@pytest.mark.parametrize(
    "address", ["auto", "ray://host:10001", "host", "http://", "http://host:port", ":8265", "ftp://host"]
)
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(UsageError, match=r"wanted http://HOST:PORT"):
        JobServer(address)


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"http://127.0.0.1:{port}: no Ray dashboard answers there: .*refused"):
        JobServer(f"127.0.0.1:{port}")


def test_a_port_that_never_answers(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (1.0, 1.0))
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        pytest.raises(UnreachableError, match="no answer within 2 s"),
    ):
        JobServer(f"127.0.0.1:{deaf.getsockname()[1]}")


def test_https_where_http_is_spoken(head):
    with pytest.raises(NwcError, match=r"TLS fails: .*; is it http\?"):
        JobServer(head.address.replace("http:", "https:"))


def test_a_certificate_that_nobody_vouches_for(tmp_path, monkeypatch):
    key, certificate = _self_signed(tmp_path)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    try:
        with pytest.raises(NwcError, match=r"TLS fails: .*SSL_CERT_FILE names certificates to trust"):
            JobServer(f"https://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(NwcError, match="it is no Ray dashboard"):  # trusted, and asked
            JobServer(f"https://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_without_rays_client_the_way_to_it_is_named(head):
    program = f"""
import sys
sys.modules["aiohttp"] = None
from nwc_infra.jobs import JobServer
JobServer({head.address!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "UsageError" in done.stderr
    assert "pip install 'nwc[submit]'" in done.stderr


# ---- token ---------------------------------------------------------------------------------------------------------


def test_where_a_token_comes_from(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("of-the-file\n")
    both = {"RAY_AUTH_TOKEN": "of-the-variable", "RAY_AUTH_TOKEN_PATH": str(file)}
    assert find_token(file, both) == Token("of-the-file", f"--token-file, {file}")
    assert find_token(None, both) == Token("of-the-variable", "RAY_AUTH_TOKEN")
    del both["RAY_AUTH_TOKEN"]
    assert find_token(None, both) == Token("of-the-file", f"RAY_AUTH_TOKEN_PATH, {file}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token(None, {}) is None
    with pytest.raises(UsageError, match=r"RAY_AUTH_MODE=token without RAY_AUTH_TOKEN: found no token in .*auth_token"):
        find_token(None, {"RAY_AUTH_MODE": "token"})
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("of-the-home")
    assert find_token(None, {"RAY_AUTH_MODE": "token"}).value == "of-the-home"
    assert find_token(None, {}).value == "of-the-home"
    assert find_token(None, {"RAY_AUTH_MODE": "disabled"}) is None


@pytest.mark.parametrize("text", ["", "\n", "two words", "two\nlines", "tökén"])
def test_what_is_no_token(tmp_path, text):
    (tmp_path / "token").write_text(text)
    with pytest.raises(UsageError, match=r"--token-file, .*: found .* characters that are no token") as refused:
        find_token(tmp_path / "token")
    assert not text.strip() or text not in str(refused.value)
    with pytest.raises(UsageError, match="--token-file: found no token in"):
        find_token(tmp_path / "missing")


def _self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "head")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    return folder / "key.pem", folder / "certificate.pem"
