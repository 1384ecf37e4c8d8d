"""Nodes, heads and credentials that are lost in mid-run: the artifact of an undisturbed run, at once or by the same command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from faults_proxy import Fault, FaultsProxy
from synthetic import normal, safetensors, small_model

from nwc_core.codec import Codec
from nwc_core.store import open_store
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan

TABLE = ("lost in mid-run", ("what", "times", "first run", "run again", "tasks done twice", "objects lost or wrong"))
COMMAND = [sys.executable, "-c", "from nwc_workflows.cli import main; main()"]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen million weights: eight tasks of half a second and more."""
    folder = tmp_path_factory.mktemp("model")
    weights = {f"w.{i}": normal(1024, 1024, seed=i) for i in range(16)}
    (folder / "model.safetensors").write_bytes(safetensors(weights))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    model: Path, codec: Codec, ray_cluster: object, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    compress(make_plan(model, codec, CompressOptions(bits=5.0)), open_store(out))
    return files(out)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
    # How long Ray looks for a head that is gone before it ends the program, without asking it; a minute otherwise.
    return {**own, "RAY_AUTH_MODE": "disabled", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}


def test_a_node_is_lost(
    model: Path, undisturbed: dict[str, bytes], tmp_path: Path, report: Callable[..., None]
) -> None:
    beside = tmp_path / "beside"
    beside.write_text("not ours")
    run = subprocess.run(
        [sys.executable, HERE / "losing_nodes.py", model, tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["lost"] == 1
    assert found["created"]
    assert found["after"] > 0  # it was not over when the node went
    wrong = sum(files(tmp_path / "out").get(key) != data for key, data in undisturbed.items())
    report(*TABLE, ("a node of two", 1, "completed", "", 0, wrong))
    assert files(tmp_path / "out") == undisturbed
    assert beside.read_text() == "not ours"


@contextmanager
def head(folder: Path, spill: Path | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """A Ray head of two CPUs on its own: its address, and what kills it at once with all that it started."""
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as another:
        port, client = free.getsockname()[1], another.getsockname()[1]
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--include-dashboard=false", "--num-cpus=2", f"--object-store-memory={80 << 20}"),
        *(f"--port={port}", f"--temp-dir={folder}", f"--ray-client-server-port={client}"),
        *([f"--object-spilling-directory={spill}"] if spill else []),
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)

    def kill() -> None:
        """Kill -9 of the session, and of what Ray moved out of it: by our folder, which is nobody else's."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
        process.wait(30)

    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", kill
    finally:
        kill()


def start(model: Path, out: Path, address: str) -> subprocess.Popen[str]:
    arguments = ["compress", str(model), str(out), "--bits", "5", "--address", address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *arguments, "--output", "json"], text=True, env=environment(), **pipes)  # type: ignore[call-overload]


def test_the_head_is_lost_and_started_anew(
    model: Path, undisturbed: dict[str, bytes], tmp_path: Path, report: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    with TemporaryDirectory(prefix="nwc-head-", ignore_cleanup_errors=True) as folder:
        with head(Path(folder)) as (address, kill):
            driver = start(model, out, address)
            deadline = time.monotonic() + 120
            while not list(out.glob("part-*")):
                assert driver.poll() is None, driver.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            kill()
            stdout, stderr = driver.communicate(timeout=120)
        assert (driver.returncode, stdout) == (1, ""), stderr
        # Ray ends the program before nwc can say that the cluster was lost.
        assert "GCS may have been killed" in stderr
        assert not (out / "manifest.json").exists()
        kept = {path.name for path in out.glob("payload-*")}
        assert kept
    with (
        TemporaryDirectory(prefix="nwc-head-", ignore_cleanup_errors=True) as folder,
        head(Path(folder)) as (address, _),
    ):
        times = {name: (out / name).stat().st_mtime_ns for name in kept}
        driver = start(model, out, address)
        stdout, stderr = driver.communicate(timeout=240)
    assert driver.returncode == 0, stderr
    again = sum((out / name).stat().st_mtime_ns != at for name, at in times.items())
    wrong = sum(files(out).get(key) != data for key, data in undisturbed.items())
    report(*TABLE, ("the head, kill -9", 1, "ended by Ray, exit 1", "completed", again, wrong))
    assert files(out) == undisturbed
    assert again == 0


def test_a_spill_disk_without_room(
    model: Path, undisturbed: dict[str, bytes], tmp_path: Path, report: Callable[..., None]
) -> None:
    """nwc keeps so little in Ray's object store that a disk for what does not fit there is never needed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a disk of 64 kB")
    try:
        with TemporaryDirectory(prefix="nwc-head-", ignore_cleanup_errors=True) as folder:
            with suppress(OSError):
                (disk / "full").write_bytes(bytes(128 << 10))
            with head(Path(folder), spill=disk) as (address, _):
                driver = start(model, tmp_path / "out", address)
                _, stderr = driver.communicate(timeout=240)
        assert driver.returncode == 0, stderr
        wrong = sum(files(tmp_path / "out").get(key) != data for key, data in undisturbed.items())
        report(*TABLE, ("the spill disk's room", 1, "completed", "", 0, wrong))
        assert files(tmp_path / "out") == undisturbed
    finally:
        subprocess.run(["umount", "--lazy", disk], capture_output=True, check=False)


def test_credentials_expire(
    upload: Callable[[str, dict[str, bytes]], str],
    nwc: Callable[..., tuple[int, str, str]],
    proxy: FaultsProxy,
    contents: Callable[[str], dict[str, bytes]],
    ray_cluster: object,
    small_tasks: object,
    report: Callable[..., None],
) -> None:
    """From some moment on every request is refused; with new credentials the same command goes on."""
    source = upload("source", small_model())
    arguments = ("--bits", 6.0, "--preset", "fast")
    assert nwc("compress", source, f"{source}.undisturbed", *arguments)[0] == 0
    wanted = contents("source.undisturbed")
    other = upload("other", {"object": b"not ours"})
    assert other
    proxy.clear()
    fault = Fault("403 ExpiredToken", methods=("PUT",), path="/payload-", after=2)
    with proxy.inject(fault):
        code, out, err = nwc("compress", source, f"{source}.nwc", *arguments)
    assert (code, out, "Traceback" in err) == (1, "", False)
    assert "expired" in err
    harmed = len(proxy.harmed())
    assert harmed
    assert "manifest.json" not in contents("source.nwc")
    kept = {key for key in contents("source.nwc") if key.startswith("payload-")}
    assert kept
    proxy.clear()
    code, _, err = nwc("compress", source, f"{source}.nwc", *arguments)
    assert code == 0, err
    again = sum(request.method == "PUT" and any(key in request.path for key in kept) for request in proxy.requests)
    found: Any = contents("source.nwc")
    wrong = sum(found.get(key) != wanted.get(key) for key in {*found, *wanted})
    report(*TABLE, ("credentials", harmed, "failed, said so", "completed", again, wrong))
    assert wrong == 0
    assert again == 0
    assert contents("other") == {"object": b"not ours"}
