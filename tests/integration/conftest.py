"""A real S3 server, a proxy that does harm in front of it, and what the tests measured, printed at the end."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ceph import CephGateway, User, missing_programs
from faults_proxy import FaultsProxy, Request

from nwc_core.codec import Codec
from nwc_infra.cluster import RayCluster, cluster
from nwc_workflows.wording import table_text

_SETTINGS = ("AWS_", "NWC_S3_", "NWC_SOURCE_", "NWC_DESTINATION_")
HERE = Path(__file__).parent
_TABLES: dict[str, tuple[tuple[str, ...], list[tuple[object, ...]]]] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is an integration test, and comes last: it restarts Ray, whose workers must know the server."""
    here = [item for item in items if HERE in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.integration)
    items[:] = [item for item in items if item not in here] + here


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, (headers, rows) in _TABLES.items():
        terminalreporter.section(title)
        terminalreporter.write_line(table_text(headers, rows))


@pytest.fixture(scope="session")
def report() -> Callable[..., None]:
    """report(title, headers, row): a row of a table that is printed after the tests."""

    def add(title: str, headers: tuple[str, ...], row: tuple[object, ...]) -> None:
        _TABLES.setdefault(title, (headers, []))[1].append(row)

    return add


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephGateway]:
    """The server. Without its programs the tests are skipped, except where CI is to have installed them."""
    missing = missing_programs()
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}; .ci/install-ceph installs them")
    assert not missing, f"CI without {', '.join(missing)}: .ci/install-ceph did not do its work"
    with tempfile.TemporaryDirectory(prefix="nwc-ceph-", ignore_cleanup_errors=True) as folder:
        gateway = CephGateway(Path(folder))
        gateway.start()
        try:
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture(scope="session")
def user(ceph: CephGateway) -> User:
    return ceph.create_user("writer")


@pytest.fixture(scope="session")
def stranger(ceph: CephGateway) -> User:
    """A user whom the server knows, without any right to what `user` owns."""
    return ceph.create_user("stranger")


@pytest.fixture(scope="session")
def session_proxy(ceph: CephGateway, user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultsProxy]:
    """The way to the server that every process of these tests finds in its environment."""
    with FaultsProxy(ceph.port) as proxy, pytest.MonkeyPatch.context() as patch:
        nowhere = str(tmp_path_factory.mktemp("aws") / "none")
        for name in [name for name in os.environ if name.startswith(_SETTINGS)]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", nowhere)  # the developer's own accounts stay out of this
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", user.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", user.secret_key)
        yield proxy


@pytest.fixture
def proxy(session_proxy: FaultsProxy) -> FaultsProxy:
    """The proxy, harmless and without a record."""
    session_proxy.clear()
    return session_proxy


@pytest.fixture(scope="session")
def s3_client(ceph: CephGateway) -> Callable[..., Any]:
    """s3_client(user, endpoint=None): plain boto3, which asks once and reports what it hears."""
    import boto3
    from botocore.config import Config

    def make(user: User, endpoint: str | None = None) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=endpoint or ceph.endpoint,
            region_name="us-east-1",
            aws_access_key_id=user.access_key,
            aws_secret_access_key=user.secret_key,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=20),
        )

    return make


@pytest.fixture(scope="session")
def direct(s3_client: Callable[..., Any], user: User) -> Any:
    """The server without the proxy, as the owner of everything."""
    return s3_client(user)


@pytest.fixture
def bucket(request: pytest.FixtureRequest, direct: Any) -> str:
    """A bucket of the test's own, named after it: whom the proxy harms depends on the name too."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    direct.create_bucket(Bucket=name)
    return name


@pytest.fixture
def upload(direct: Any, bucket: str) -> Callable[[str, dict[str, bytes]], str]:
    """upload(prefix, files): puts them into the bucket; gives the URI."""

    def put(prefix: str, files: dict[str, bytes]) -> str:
        for key, data in files.items():
            direct.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)
        return f"s3://{bucket}/{prefix}"

    return put


@pytest.fixture
def contents(direct: Any, bucket: str) -> Callable[[str], dict[str, bytes]]:
    """contents(prefix): every object below a prefix of the bucket, key to bytes."""

    def get(prefix: str) -> dict[str, bytes]:
        found = direct.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
        keys = [entry["Key"] for entry in found]
        return {
            key.removeprefix(f"{prefix}/"): direct.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys
        }

    return get


@pytest.fixture(scope="session")
def ray_cluster(session_proxy: FaultsProxy) -> Iterator[RayCluster]:
    """Two workers that know the server: they inherit the environment of the moment when Ray starts."""
    import ray

    ray.shutdown()  # one that tests elsewhere have started; they are done
    with cluster(workers=2) as running:
        yield running


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec.load("default")


@pytest.fixture
def nwc(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `nwc ARGUMENTS` in this process: (exit code, stdout, stderr)."""
    from nwc_workflows import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def refusal(nwc: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Runs a command that must fail: exit code 1, no result, one line without traceback; returns the line."""

    def run(*arguments: object) -> str:
        code, out, err = nwc(*arguments)
        assert (code, out) == (1, ""), err
        assert "Traceback" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("nwc: error: ")]
        return line

    return run


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task for each large tensor of the small model, which would otherwise be two tasks."""
    from nwc_workflows import blocks

    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 17)


class Outage:
    """The gateway killed -9 in the middle of the first request of a kind, and started again a second later.

    Attributes:
        killed_in: that request, once it came.
    """

    TABLE = ("gateway killed -9 and restarted", ("in the middle of", "times killed", "outcome", "objects lost"))

    def __init__(self, ceph: CephGateway, method: str, part: str, seconds: float = 1.0) -> None:
        self.ceph, self.method, self.part, self.seconds = ceph, method, part, seconds
        self.killed_in: list[Request] = []
        self._back = threading.Thread(target=self._come_back)

    def __call__(self, request: Request) -> None:
        if request.method == self.method and self.part in request.path and not self.killed_in:
            self.killed_in.append(request)
            self.ceph.kill()
            self._back.start()

    def wait(self) -> None:
        """Until the gateway answers again."""
        if self.killed_in:
            self._back.join()

    def _come_back(self) -> None:
        time.sleep(self.seconds)
        self.ceph.restart()


@pytest.fixture
def outage(ceph: CephGateway, proxy: FaultsProxy) -> Iterator[Callable[[str, str], Outage]]:
    """outage(method, part of the path): arms one."""
    armed: list[Outage] = []

    def arm(method: str, part: str) -> Outage:
        armed.append(Outage(ceph, method, part))
        proxy.on_request = armed[-1]
        return armed[-1]

    yield arm
    for each in armed:
        each.wait()
