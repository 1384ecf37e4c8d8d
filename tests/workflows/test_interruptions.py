"""Work that is stopped: Ctrl-C, dead workers, a dead driver. Nothing looks finished, and the next run ends as ever."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import nullcontext, suppress
from pathlib import Path

import poison
import pytest
from checkpoints import BITS, contents, has_manifest, make_model, normal, save
from ray import cloudpickle

from nwc_core.errors import NwcError
from nwc_core.store import open_store
from nwc_workflows import blocks
from nwc_workflows.compress import compress
from nwc_workflows.console import Output
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.sources import open_checkpoint


@pytest.fixture
def source(tmp_path):
    return make_model(tmp_path / "model")


@pytest.mark.parametrize("done", [1, 2])
def test_ctrl_c_between_tasks(source, codec, nwc, tmp_path, ray_cluster, small_tasks, monkeypatch, done, artifact):
    seen = []

    class Interrupting:
        def advance(self, amount):
            seen.append(amount)
            if len(seen) == done:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Output, "progress", lambda *arguments: nullcontext(Interrupting()))
        code, out, err = nwc("compress", source, tmp_path / "out", "--bits", BITS)
    assert (code, out, err.splitlines()[-1]) == (130, "", "nwc: interrupted")
    assert not has_manifest(tmp_path / "out")
    assert nwc("compress", source, tmp_path / "out", "--bits", BITS)[0] == 0
    assert contents(tmp_path / "out") == contents(artifact)


def long_work(folder, name, tensors):
    """A checkpoint whose tasks take long enough to be caught at it."""
    return save(folder / "m.safetensors", {f"{name}.{i}": normal(512, 512, seed=i) for i in range(tensors)})


LONG = CompressOptions(bits=6.0, preset="max")


def processes_working_on(name):
    """Ray's workers carry the name of their task as their title."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(f"ray::{name}".encode()):
                yield int(path.parent.name)


def test_a_killed_worker_is_replaced(codec, tmp_path, ray_cluster, small_tasks):
    name = f"victim-{uuid.uuid4().hex}"
    plan = make_plan(long_work(tmp_path, name, tensors=3), codec, LONG)
    compress(plan, open_store(tmp_path / "undisturbed"))
    killed, stop = [], threading.Event()

    def kill_one():
        while not killed and not stop.wait(0.005):
            for pid in processes_working_on(name):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        compress(plan, open_store(tmp_path / "out"))
    finally:
        stop.set()
        thread.join()
    assert killed
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.integration  # real processes that die, eight times: what `make test` need not wait for
def test_a_tensor_that_kills_every_worker_is_named_and_the_rest_is_kept(codec, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 17)  # two tensors in each task
    cloudpickle.register_pickle_by_value(poison)  # workers do not find modules of tests
    path = save(tmp_path / "source" / "m.safetensors", {f"w.{i}": normal(256, 256, seed=i) for i in range(6)})
    poisoned = next(tensor for tensor in open_checkpoint(path.parent).tensors if tensor.name == "w.3")
    options = CompressOptions(bits=6.0)
    out = tmp_path / "out"
    with pytest.raises(NwcError) as caught:
        compress(make_plan(poison.PoisonedStore(path.parent, poisoned.start + 9), codec, options), open_store(out))
    assert str(caught.value).startswith("tensor 'w.3', block 0: the worker process dies each time that this is coded;")
    assert not has_manifest(out)
    result = compress(make_plan(path.parent, codec, options), open_store(out))
    assert [(span.key, span.resumed) for span in sorted(result.timeline, key=lambda span: span.key)] == [
        ("w.0#0 and 1 more", True),
        ("w.2#0 and 1 more", False),
        ("w.4#0 and 1 more", True),
    ]
    compress(make_plan(path.parent, codec, options), open_store(tmp_path / "undisturbed"))
    assert contents(out) == contents(tmp_path / "undisturbed")


COMMAND = [sys.executable, "-c", "from nwc_workflows.cli import main; main()"]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_driver_that_is_stopped(codec, tmp_path, ray_cluster, number):
    """The whole command with a Ray of its own, stopped in mid-run; run again, it ends as if nothing had been."""
    path = save(tmp_path / "m.safetensors", {f"w.{i}": normal(1024, 1024, seed=i) for i in range(16)})
    out = tmp_path / "out"
    (tmp_path / "my.codec").write_bytes(codec.to_bytes())
    arguments = ["compress", path, out, "--bits", "5", "--workers", "1", "--codec", tmp_path / "my.codec"]
    driver = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("payload-*")):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.send_signal(number)
    stdout, stderr = driver.communicate(timeout=60)
    assert stdout == ""
    if number == signal.SIGINT:
        assert driver.returncode == 130
        assert stderr.splitlines()[-1] == "nwc: interrupted"
        assert "Traceback" not in stderr
    assert not has_manifest(out)
    assert list(out.glob("payload-*"))
    plan = make_plan(path, codec, CompressOptions(bits=5.0))
    assert compress(plan, open_store(out)).created
    compress(plan, open_store(tmp_path / "undisturbed"))
    wanted = contents(tmp_path / "undisturbed")
    assert {key: data for key, data in contents(out).items() if not key.startswith(".nwc-tmp-")} == wanted
