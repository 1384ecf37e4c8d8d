"""Reading a calibration: every byte is checked, and what contradicts itself is refused by name."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from calibration_models import calibrate_here, data_for, make

from nwc_core.errors import FormatError, IntegrityError, NotFoundError, NwcError, VersionError
from nwc_core.safetensors_header import parse_header
from nwc_core.store import open_store
from nwc_workflows.calibration.partials import Partial, find_partials, partial_prefix, write_partial
from nwc_workflows.calibration.reading import Calibration
from nwc_workflows.calibration.record import RECORD_KEY, CalibrationRecord
from nwc_workflows.calibration.sums import WeightSums

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of a calibration. Not to be changed."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("calibration")
    calibrate_here(make(folder / "model", "llama"), data_for(folder, "llama"), folder / "out", window=24)
    return folder / "out"


@pytest.fixture
def own(shared, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(shared, tmp_path / "own"))


def rewrite(folder, change):
    """Change the record and give it the checksum that it then has."""
    fields = json.loads((folder / RECORD_KEY).read_bytes())
    change(fields)
    fields["checksum"] = "0" * 64
    data = (json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=True) + "\n").encode()
    # Keys are sorted, so no other digest comes before it.
    (folder / RECORD_KEY).write_bytes(data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1))


def weight(fields):
    return next(of for of in fields["weights"] if of["name"] == NAME)


def test_a_calibration_is_read_by_weight(shared):
    calibration = Calibration.open(shared)
    assert calibration.record == CalibrationRecord.from_bytes(calibration.record.to_bytes())
    assert NAME in calibration.names
    assert calibration.get("no such weight") is None
    again = pickle.loads(pickle.dumps(calibration))
    for part in ("hessian", "rows", "positions"):
        np.testing.assert_array_equal(getattr(again.get(NAME), part), getattr(calibration.get(NAME), part))
    assert again.fingerprint == calibration.fingerprint
    assert not again.input_only


def test_only_what_is_asked_for_is_read(shared, monkeypatch):
    calibration = Calibration.open(open_store(shared))
    read = []
    original = type(calibration.store).get_range
    monkeypatch.setattr(
        type(calibration.store), "get_range", lambda self, *range_: read.append(range_) or original(self, *range_)
    )
    statistics = calibration.get(NAME)
    n = statistics.hessian.shape[1]
    assert sum(stop - start for _, start, stop in read) == 4 * (n * (n + 1) // 2 + statistics.rows.size)


def test_the_objects_are_plain_safetensors(shared):
    from safetensors.numpy import load_file

    (path,) = shared.glob("statistics-*.safetensors")
    tensors = load_file(path)
    statistics = Calibration.open(shared).get(NAME)
    np.testing.assert_array_equal(tensors[f"{NAME}/rows"], statistics.rows)
    n = statistics.hessian.shape[1]
    np.testing.assert_array_equal(tensors[f"{NAME}/hessian"][0], statistics.hessian[0][np.triu_indices(n)])


def test_nothing_there(tmp_path):
    with pytest.raises(NotFoundError):
        Calibration.open(tmp_path)


def test_any_flipped_bit_of_the_record_is_found(own):
    data = bytearray((own / RECORD_KEY).read_bytes())
    for at in range(0, len(data), max(1, len(data) // 60)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises((FormatError, IntegrityError)):
            CalibrationRecord.from_bytes(bytes(damaged))


def test_a_damaged_array_is_named(own):
    (path,) = own.glob("statistics-*")
    data = bytearray(path.read_bytes())
    header = parse_header(lambda start, stop: bytes(data[start:stop]), len(data), "file")
    data[header.tensors[f"{NAME}/hessian"].start] ^= 1
    path.write_bytes(data)
    calibration = Calibration.open(own)
    with pytest.raises(IntegrityError, match=NAME):
        calibration.get(NAME)
    assert calibration.get("lm_head.weight") is not None


def test_a_cut_off_object_is_an_error(own):
    (path,) = own.glob("statistics-*")
    path.write_bytes(path.read_bytes()[:1000])
    calibration = Calibration.open(own)
    with pytest.raises(NwcError, match="statistics-"):
        [calibration.get(name) for name in calibration.names]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: weight(f)["shape"].append(1 << 40), "order"),
        (lambda f: weight(f).update(shape=[1 << 40, 1 << 40]), r"2\*\*62"),
        (lambda f: weight(f).update(shape=[32, 64]), "hessian"),
        (lambda f: weight(f).update(order=[0, 0]), "order"),
        (lambda f: weight(f).update(order=[]), "order"),
        (lambda f: weight(f).update(batch_axes=3), "layout"),
        (lambda f: weight(f).update(row_axes=2), "hessian"),
        (lambda f: weight(f).update(kernel_axes=9), "layout"),
        (lambda f: weight(f).update(positions=[1, 2]), "positions"),
        (lambda f: weight(f).update(shrinkage=[1.5]), "shrinkage"),
        (lambda f: weight(f).update(shrinkage=[]), "shrinkage"),
        (lambda f: weight(f).update(energy=[-1.0]), "energy"),
        (lambda f: weight(f)["hessian"].update(offset=1 << 40), "hessian"),
        (lambda f: weight(f)["hessian"].update(offset=-1), "offset"),
        (lambda f: weight(f)["hessian"].update(length=1 << 50), "hessian"),
        (lambda f: weight(f)["rows"].update(length=4), "rows"),
        (lambda f: weight(f)["rows"].update(object="../elsewhere"), "object"),
        (lambda f: weight(f)["rows"].update(object="other"), "no object"),
        (lambda f: weight(f)["rows"].update(sha256="0"), "sha256"),
        (lambda f: f["weights"].append(f["weights"][0]), "twice"),
        (lambda f: f["objects"].update({"/etc/passwd": 1}), "objects"),
        (lambda f: f.update(format="nwc-artifact"), "format"),
        (lambda f: f.update(version=True), "version"),
        (lambda f: f.update(surprise=1), "surprise"),
        (lambda f: f.pop("weights"), "weights"),
        (lambda f: f.update(fingerprint="x"), "fingerprint"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(own, change, words):
    rewrite(own, change)
    with pytest.raises(FormatError, match=words):
        Calibration.open(own)


def test_a_newer_version_says_so(own):
    rewrite(own, lambda fields: fields.update(version=2))
    with pytest.raises(VersionError):
        Calibration.open(own)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b'{"format": "nwc-calibration"}', b"\xff\xfe"])
def test_what_is_no_record(tmp_path, data):
    (tmp_path / RECORD_KEY).write_bytes(data)
    with pytest.raises(FormatError, match=RECORD_KEY):
        Calibration.open(tmp_path)


def array_replaced(folder, name, values):
    """Other values in place of an array's, with the digest that they then have."""
    (path,) = folder.glob("statistics-*")
    data = bytearray(path.read_bytes())

    def change(fields):
        ref = weight(fields)[name]
        raw = np.broadcast_to(np.float32(values), ref["length"] // 4).tobytes()
        data[ref["offset"] : ref["offset"] + ref["length"]] = raw
        ref["sha256"] = hashlib.sha256(raw).hexdigest()

    rewrite(folder, change)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("hessian", np.nan, "NaN"),
        ("hessian", np.inf, "infinity"),
        ("rows", -1.0, "row weight"),
        ("rows", np.nan, "NaN"),
    ],
)
def test_numbers_that_cannot_be(own, name, value, words):
    array_replaced(own, name, value)
    with pytest.raises(FormatError, match=words):
        Calibration.open(own).get(NAME)


# --- partial sums


def some_sums(shape=(2, 3, 4), seed=0):
    import torch

    sums = WeightSums(shape)
    sums.hessian += torch.randn(sums.hessian.shape, generator=torch.Generator().manual_seed(seed))
    sums.hessian += sums.hessian.transpose(1, 2).clone()
    sums.rows += 1.5
    sums.counts += 7
    sums.positions += 9
    return sums


def test_partial_sums_come_back(tmp_path):
    store = open_store(tmp_path)
    prefix = partial_prefix("f", ["a", "b"], 0, 3)
    sums = {"a": some_sums(), "b": some_sums((1, 2, 5), 1)}
    key = write_partial(store, prefix, dict(sums))
    assert find_partials(store) == {prefix: key}
    partial = Partial.open(store, key)
    for name, of in sums.items():
        k, n, _ = of.hessian.shape
        for number in range(k):
            found = partial.read(name, number, of.rows.shape[1], n)
            np.testing.assert_allclose(found.hessian, of.hessian[number].numpy()[np.triu_indices(n)], rtol=1e-6)
            np.testing.assert_array_equal(found.rows, of.rows[number])
            np.testing.assert_array_equal(found.counts, of.counts[number])
            assert found.positions == 9
    with pytest.raises(FormatError, match="found nothing"):
        partial.read("c", 0, 3, 4)
    with pytest.raises(FormatError, match="bytes"):
        partial.read("a", 0, 3, 5)


def test_partial_sums_of_other_questions_have_other_names():
    names = {
        partial_prefix(*question)
        for question in [("f", ["a"], 0, 3), ("g", ["a"], 0, 3), ("f", ["a", "b"], 0, 3), ("f", ["a"], 0, 4)]
    }
    assert len(names) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data[:100] + b"x" + data[101:],
    ],
)
def test_damaged_partial_sums_are_not_found(tmp_path, damage):
    store = open_store(tmp_path)
    key = write_partial(store, partial_prefix("f", ["a"], 0, 3), {"a": some_sums()})
    (tmp_path / key).write_bytes(damage((tmp_path / key).read_bytes()))
    assert find_partials(store) == {}


def test_a_changed_number_in_partial_sums_is_found(tmp_path):
    store = open_store(tmp_path)
    key = write_partial(store, partial_prefix("f", ["a"], 0, 3), {"a": some_sums()})
    data = bytearray((tmp_path / key).read_bytes())
    data[-1] ^= 1
    (tmp_path / key).write_bytes(data)
    Partial.open(store, key).read("a", 0, 3, 4)
    with pytest.raises(IntegrityError, match="'a'"):
        Partial.open(store, key).read("a", 1, 3, 4)
