"""`nwc cat`: one tensor as a file; exactly its values, and nothing in the way is lost."""

import io
import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import safetensors
import torch
from checkpoints import all_tensors, contents, same_bits, snapshot

import nwc_core
from nwc_workflows.cat import excerpt

NAMES = list(all_tensors())
ROWS = "embedding"  # of 1000 rows


@pytest.fixture
def wanted(artifact):
    with nwc_core.open(artifact) as opened:
        yield opened.get_tensor


def as_numpy(tensor):
    """What .npy holds of a tensor."""
    narrow = tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)
    return (tensor.float() if narrow else tensor).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_npy_holds_the_values(nwc, artifact, wanted, tmp_path, name):
    code, out, err = nwc("cat", artifact, "--to", tmp_path / "x.npy", "--", name)
    assert code == 0
    found, expected = np.load(tmp_path / "x.npy"), as_numpy(wanted(name))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    narrow = expected.dtype != np.dtype("float32") or wanted(name).dtype == torch.float32
    assert ("becomes float32, exactly: numpy has no such type" in err) == (not narrow)
    assert out.startswith(f"{tmp_path}/x.npy: ")


@pytest.mark.parametrize("name", NAMES)
def test_safetensors_holds_the_bits(nwc, artifact, wanted, tmp_path, name):
    code, _, err = nwc("cat", artifact, "--to", tmp_path / "x.safetensors", "--", name)
    assert (code, err) == (0, "")
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert list(file.keys()) == [name]
        assert same_bits(file.get_tensor(name), wanted(name))


@pytest.mark.parametrize(
    ("rows", "start", "stop"),
    [
        ("0:128", 0, 128),
        ("5:6", 5, 6),
        ("990:", 990, 1000),
        (":7", 0, 7),
        (":", 0, 1000),
        ("-3:", 997, 1000),
        ("4:4", 4, 4),
    ],
)
def test_rows(nwc, artifact, wanted, tmp_path, rows, start, stop):
    code, out, _ = nwc("cat", artifact, ROWS, f"--rows={rows}", "--to", tmp_path / "x.npy", "--output", "json")
    assert code == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), wanted(ROWS)[start:stop].numpy())
    assert json.loads(out) == {
        "tensor": ROWS,
        "dtype": "F32",
        "shape": [stop - start, 32],
        "rows": [start, stop],
        "file": f"file://{tmp_path}/x.npy",
        "bytes": (tmp_path / "x.npy").stat().st_size,
    }


def test_rows_are_of_whole_blocks_and_parts_of_them(artifact, monkeypatch):
    """A tensor in many blocks, which the rows do not keep to."""
    with nwc_core.open(artifact) as opened:
        tensor = opened.get_tensor(ROWS)
        (row,) = opened.index.blocks(ROWS)
        cuts = [0, 96, 100, 1000, 17000, 32000]  # elements; some within a row
        rows = [type(row)(**{**fields(row), "start": a, "stop": b}) for a, b in pairwise(cuts)]
        monkeypatch.setattr(opened.index, "blocks", lambda name: rows)
        monkeypatch.setattr(
            opened, "iter_blocks", lambda rows: (tensor.reshape(-1)[row.start : row.stop] for row in rows)
        )
        for start, stop in ((0, 1000), (3, 4), (2, 600), (531, 532), (999, 1000)):
            data = b"".join(excerpt(opened, ROWS, f"{start}:{stop}", ".npy").chunks())
            assert np.array_equal(np.load(io.BytesIO(data)), tensor[start:stop].numpy())


def fields(row):
    return {name: getattr(row, name) for name in row.__slots__}


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (ROWS, "0:1001", "rows: found '0:1001'; wanted rows within 0:1000, which tensor 'embedding' has"),
        (ROWS, "5:4", "wanted rows within 0:1000"),
        (ROWS, "-1001:", "wanted rows within 0:1000"),
        (ROWS, "7", "rows: found '7'; wanted START:STOP, such as 0:128"),
        (ROWS, "0:8:2", "wanted START:STOP"),
        (ROWS, "a:b", "wanted START:STOP"),
        ("scalar", "0:1", "is a scalar; leave it out"),
    ],
)
def test_wrong_rows_are_wrong_usage(nwc, artifact, tmp_path, name, rows, message):
    code, out, err = nwc("cat", artifact, name, f"--rows={rows}", "--to", tmp_path / "x.npy")
    assert (code, out) == (2, "")
    assert message in err
    assert not contents(tmp_path)


def test_an_unknown_tensor_fails(failing, artifact, tmp_path):
    line = failing("cat", artifact, "no\x1bsuch", "--to", tmp_path / "x.npy")
    assert line.endswith(r"no tensor named 'no\x1bsuch'")
    assert not contents(tmp_path)


@pytest.mark.parametrize("place", ["x.bin", "x", "folder/", ".npyx"])
def test_another_kind_of_file_is_wrong_usage(nwc, artifact, tmp_path, place):
    code, out, err = nwc("cat", artifact, ROWS, "--to", f"{tmp_path}/{place}")
    assert (code, out) == (2, "")
    assert "wanted a name that ends in .npy or .safetensors, or - for standard output" in err


def test_a_file_that_is_there_stays_without_force(nwc, failing, artifact, tmp_path):
    (tmp_path / "x.npy").write_text("mine")
    before = snapshot(tmp_path)
    line = failing("cat", artifact, ROWS, "--to", tmp_path / "x.npy")
    assert line.endswith("x.npy: already exists; nothing was written; --force replaces it")
    assert snapshot(tmp_path) == before
    assert nwc("cat", artifact, ROWS, "--to", tmp_path / "x.npy", "--force")[0] == 0
    assert np.load(tmp_path / "x.npy").shape == (1000, 32)


def test_damage_leaves_what_was_there(failing, own_artifact, tmp_path):
    with nwc_core.open(own_artifact) as opened:
        row = opened.index.blocks(ROWS)[0]
    path = own_artifact / row.object
    data = bytearray(path.read_bytes())
    data[row.offset] ^= 1
    path.write_bytes(data)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.npy").write_text("mine")
    line = failing("cat", own_artifact, ROWS, "--to", tmp_path / "out" / "x.npy", "--force")
    assert "tensor 'embedding', block" in line
    assert contents(tmp_path / "out") == {"x.npy": b"mine"}


def test_a_relative_place_is_in_this_folder(nwc, artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert nwc("cat", artifact, ROWS, "--to", "x.npy")[0] == 0
    assert list(contents(tmp_path)) == ["x.npy"]


def test_stdout_carries_the_tensor_and_nothing_else(artifact, wanted):
    command = [sys.executable, "-m", "nwc_workflows.cli", "cat", artifact, "encoder.0.query/weight"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert np.array_equal(np.load(io.BytesIO(done.stdout)), wanted("encoder.0.query/weight").float().numpy())
    assert done.stderr == b"bfloat16 becomes float32, exactly: numpy has no such type\n"


def test_a_reader_who_has_enough_is_no_error(artifact):
    command = f"{sys.executable} -m nwc_workflows.cli cat '{artifact}' {ROWS} | head -c 6; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == b"\x93NUMPY0\n"
    assert done.stderr == b""


def test_stdout_cannot_be_two_things(nwc, artifact, monkeypatch):
    code, _, err = nwc("cat", artifact, ROWS, "--output", "json")
    assert code == 2
    assert "standard output cannot carry both the tensor and JSON; name a file" in err
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        code, _, err = nwc("cat", artifact, ROWS)
    os.close(master)
    assert code == 2
    assert "standard output is a terminal, which a tensor would garble" in err
