"""What goes wrong in the middle: nothing that looks finished, nothing harmed, one clear line, and the next run succeeds."""

import errno
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from checkpoints import BITS, SHARDS, contents, has_manifest, make_model, snapshot

from nwc_core.errors import StoreError
from nwc_core.store import open_store
from nwc_workflows import compress as module
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.resume import UNFINISHED_KEY, clear


@pytest.fixture
def source(tmp_path):
    """A model of one's own to damage."""
    return make_model(tmp_path / "model")


# --- the destination


def test_a_full_disk_at_any_moment(source, codec, tmp_path, serial, monkeypatch, artifact):
    """The n-th write fails, for many n: an error that names the object, no manifest; with room again, it completes."""
    plan = make_plan(source, codec, CompressOptions(bits=BITS))
    fsync, calls, fail_at = os.fsync, 0, None

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    deletes = []
    monkeypatch.setattr(module, "clear", lambda store: deletes.append(calls) or clear(store))
    compress(plan, open_store(tmp_path / "whole"))
    writes = deletes.pop()
    assert writes > 20
    # The last call before the deletes makes the name manifest.json durable: by then the artifact is whole.
    for fail_at in {*range(1, writes, 7), writes - 1}:
        calls, out = 0, tmp_path / f"out{fail_at}"
        with pytest.raises(StoreError, match=rf"{out}/\S+: no space left on the device"):
            compress(plan, open_store(out))
        assert not has_manifest(out)
        assert not list(out.rglob("*tmp*"))
        calls, fail_at = 0, None  # noqa: PLW2901
        assert compress(plan, open_store(out)).created
        assert contents(out) == contents(artifact)
        shutil.rmtree(out)


def test_a_disk_that_is_really_full(source, codec, failing, tmp_path, ray_cluster):
    """In Ray's workers, on a real file system."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        line = failing("compress", source, disk / "out", "--bits", BITS)
        assert f"{disk}/out/" in line
        assert "no space left on the device" in line
        whole = {f"out/codec-{codec.digest[:32]}.safetensors", f"out/{UNFINISHED_KEY}"}
        assert contents(disk).keys() <= whole  # nothing half-written
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_destination_that_may_not_be_written(source, failing, ray_cluster):
    if not Path("/sys").is_dir():
        pytest.skip("no sysfs")
    line = failing("compress", source, "/sys/nwc-test", "--bits", BITS)
    assert "nwc: error: /sys/nwc-test/" in line
    assert any(reason in line for reason in ("not permitted", "permission denied", "read-only"))


def test_a_destination_that_is_a_file(source, failing, tmp_path, serial):
    (tmp_path / "out").write_text("mine")
    assert "an object is in the way" in failing("compress", source, tmp_path / "out", "--bits", BITS)
    assert (tmp_path / "out").read_text() == "mine"


# --- the source


def unreadable(path, monkeypatch):
    """Take the permission to read away; from root, who has it always, by a system call that says no."""
    if os.geteuid():
        path.chmod(0)
        return
    original = os.open

    def denied(name, *arguments, **options):
        if Path(name) == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return original(name, *arguments, **options)

    monkeypatch.setattr(os, "open", denied)


@pytest.mark.parametrize("name", [SHARDS[0], "tokenizer.json", "model.safetensors.index.json"])
def test_a_source_that_may_not_be_read(source, failing, tmp_path, monkeypatch, name):
    unreadable(source / name, monkeypatch)
    line = failing("compress", source, tmp_path / "out", "--bits", BITS)
    assert f"{source}/{name}: permission denied" in line
    assert not (tmp_path / "out").exists()


def test_a_source_that_may_not_be_read_any_more(source, failing, tmp_path, monkeypatch, serial, when_planned):
    when_planned(lambda: unreadable(source / SHARDS[1], monkeypatch))
    line = failing("compress", source, tmp_path / "out", "--bits", BITS)
    assert f"{source}/{SHARDS[1]}: permission denied" in line
    assert not has_manifest(tmp_path / "out")


def test_a_source_that_is_gone_in_the_middle(source, failing, tmp_path, ray_cluster, when_planned):
    """A worker of Ray finds out."""
    when_planned((source / SHARDS[1]).unlink)
    line = failing("compress", source, tmp_path / "out", "--bits", BITS)
    assert f"{source}/{SHARDS[1]}: no such object" in line
    assert not has_manifest(tmp_path / "out")


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)


def test_a_source_cut_off_in_the_middle(source, failing, tmp_path, serial, when_planned):
    size = (source / SHARDS[1]).stat().st_size
    when_planned(lambda: cut(source / SHARDS[1]))
    line = failing("compress", source, tmp_path / "out", "--bits", BITS)
    assert f"{source}/{SHARDS[1]}: wanted bytes [" in line
    assert f", {size}), found {size - 100} bytes" in line
    assert not has_manifest(tmp_path / "out")


@pytest.mark.parametrize("change", ["larger", "as large"])
def test_a_source_replaced_in_the_middle(source, failing, tmp_path, serial, when_planned, change):
    """Every byte range still exists, but the bytes are another model's."""
    path = source / SHARDS[1]
    size = path.stat().st_size
    other = pickle.dumps(bytes(2 * size)) if change == "larger" else path.read_bytes()[::-1]
    when_planned(lambda: path.write_bytes(other))
    line = failing("compress", source, tmp_path / "out", "--bits", BITS)
    assert f"{path}: was replaced while it was being read; nothing was committed" in line
    assert not has_manifest(tmp_path / "out")


def test_a_carried_file_that_changes_in_the_middle(source, failing, tmp_path, serial, monkeypatch):
    original = module.write_files

    def late(*arguments):
        (source / "tokenizer.json").write_text("{}")
        original(*arguments)

    monkeypatch.setattr(module, "write_files", late)
    line = failing("compress", source, tmp_path / "out", "--bits", BITS)
    assert f"{source}/tokenizer.json: changed while the checkpoint was being compressed" in line
    assert not has_manifest(tmp_path / "out")


def test_a_pickle_in_place_of_a_shard_is_not_loaded(source, failing, tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (source / SHARDS[0]).write_bytes(pickle.dumps(Bomb()))
    for command in (["plan", source], ["compress", source, tmp_path / "out"]):
        line = failing(*command, "--bits", BITS)
        assert f"{source}/{SHARDS[0]}: found " in line
        assert "; wanted " in line
    for path in source.glob("*.safetensors*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    line = failing("compress", source, tmp_path / "out")
    assert "pickle: never loaded" in line
    assert "convert once, where the file is trusted: model.save_pretrained" in line
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, f"{SHARDS[1]}: tensor 'embedding': found bytes up to"),
        (lambda path: path.unlink(), f"the shard '{SHARDS[1]}', which is missing"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'"F64"', b'"F63"')),
            "dtype 'F63'; wanted one of F64",
        ),
        (lambda path: path.write_bytes(b"\xff" * 100), "found a header of 18446744073709551615 bytes"),
    ],
    ids=["cut off", "missing", "unknown dtype", "lying header"],
)
def test_a_damaged_source(source, failing, tmp_path, damage, message):
    damage(source / SHARDS[1])
    for command in (["plan", source], ["compress", source, tmp_path / "out"]):
        assert message in failing(*command, "--bits", BITS)
    assert not (tmp_path / "out").exists()


def test_a_damaged_source_leaves_a_finished_artifact_alone(source, failing, own_artifact):
    before = snapshot(own_artifact)
    cut(source / SHARDS[1])
    failing("compress", source, own_artifact, "--bits", BITS)
    assert snapshot(own_artifact) == before


# --- codecs and versions


def test_an_unknown_codec(source, failing, tmp_path):
    line = failing("compress", source, tmp_path / "out", "--codec", "nosuch")
    assert line == "nwc: error: unknown codec 'nosuch'; available: default, nwc-paper, or a path to a codec file"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data.replace(rb"\"version\":1", rb"\"version\":7"),
            "found codec version 7; wanted at most 1; a newer",
        ),
        (lambda data: data[:-1], "tensor 'provenance': found bytes up to"),
        (lambda data: b"no codec at all", "found "),
        (lambda data: b"", "found 0 bytes"),
    ],
    ids=["newer", "cut off", "text", "empty"],
)
def test_a_codec_file_that_is_none(source, codec, failing, tmp_path, change, message):
    path = tmp_path / "my.codec"
    path.write_bytes(change(codec.to_bytes()))
    line = failing("compress", source, tmp_path / "out", "--codec", path, "--bits", BITS)
    assert f"{path}: {message}" in line
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_no_codec(source, failing, tmp_path):
    line = failing("compress", source, tmp_path / "out", "--codec", source / SHARDS[1])
    assert SHARDS[1] in line
    assert "found a safetensors file that is no codec; wanted metadata nwc" in line


@pytest.mark.parametrize("command", ["verify", "inspect", "decompress", "compress"])
def test_an_artifact_of_a_newer_version(source, failing, own_artifact, tmp_path, command):
    path = own_artifact / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    before = snapshot(own_artifact)
    arguments = {
        "decompress": [own_artifact, tmp_path / "back"],
        "compress": [source, own_artifact, "--bits", BITS],
    }.get(command, [own_artifact])
    line = failing(command, *arguments)
    assert "manifest.json: key version: found 2; wanted at most 1; a newer nwc may read it" in line
    assert snapshot(own_artifact) == before
    assert not (tmp_path / "back").exists()


def test_a_disk_that_is_full_when_the_artifact_is_whole(source, codec, tmp_path, serial, monkeypatch, artifact):
    """What cannot be tidied up is no failure: the artifact is committed."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def clear_on_full_disk(store):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            clear(store)

    monkeypatch.setattr(module, "clear", clear_on_full_disk)
    plan = make_plan(source, codec, CompressOptions(bits=BITS))
    assert compress(plan, open_store(tmp_path / "out")).created
    found = contents(tmp_path / "out")
    assert {key: found[key] for key in contents(artifact)} == contents(artifact)
