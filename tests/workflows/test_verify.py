"""Verifying: no damage goes unnoticed, wherever it is, and the message names what is damaged."""

import json
import random
import re
import shutil
from dataclasses import replace

import pytest
from checkpoints import contents, make_model, normal, rewrite_index, rewrite_manifest, save, snapshot

import nwc_core
from nwc_core.artifact.writer import put_object
from nwc_core.errors import FormatError, IntegrityError, NwcError
from nwc_core.store import open_store
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.sources import open_checkpoint
from nwc_workflows.verify import verify


def check(folder, source=None, **options):
    with nwc_core.open(folder) as artifact:
        return verify(artifact, open_checkpoint(source) if source else None, **options)


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def places_in(folder):
    """Bytes to damage: ends of every object, header and data of payloads, and many at random."""
    chance = random.Random(0)
    for name, data in contents(folder).items():
        if data:
            places = {0, 7, 8, 40, len(data) // 2, len(data) - 1} | {chance.randrange(len(data)) for _ in range(4)}
            for position in sorted(place for place in places if place < len(data)):
                yield name, position, chance.randrange(8)


def test_an_undamaged_artifact_has_no_problems(artifact, model):
    before = snapshot(artifact)
    assert check(artifact) == []
    assert check(artifact, model) == []
    assert check(artifact, model, threads=4) == []
    assert snapshot(artifact) == before


def test_any_flipped_bit_is_found_and_named(own_artifact):
    """Wherever it is; `check` opens the artifact anew each time, as a command would."""
    tried = 0
    for name, position, bit in places_in(own_artifact):
        path = own_artifact / name
        intact = path.read_bytes()
        flip(path, position, bit)
        try:
            problems = [(problem.where, str(problem.error)) for problem in check(own_artifact)]
        except NwcError as error:  # manifest and index: found on opening
            assert name.startswith(("manifest", "index"))
            problems = [(name, str(error))]
        assert [where for where, _ in problems] == [name], (name, position, bit)
        assert name in problems[0][1]
        path.write_bytes(intact)
        tried += 1
    assert tried > 100
    assert check(own_artifact) == []


def test_a_cut_off_or_missing_object_is_found(own_artifact):
    for name, data in contents(own_artifact).items():
        path = own_artifact / name
        for damaged in (None, data[:-1], data + b"\0"):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            if damaged == data:  # an empty file cannot be cut off
                continue
            try:
                problems = [(problem.where, str(problem.error)) for problem in check(own_artifact)]
            except NwcError as error:
                problems = [(name, str(error))]
            assert [where for where, _ in problems] == [name]
            assert name in problems[0][1]
        path.write_bytes(data)


def test_damage_in_several_objects_is_all_found(own_artifact):
    """Also where nothing can be decoded, since the codec is damaged too."""
    payloads = sorted(own_artifact.glob("payload-*"))
    damaged = [payloads[0], payloads[2], next(own_artifact.glob("codec-*")), own_artifact / "tokenizer.json"]
    for path in damaged:
        flip(path, 100 if path.stat().st_size > 100 else 0)
    assert {problem.where for problem in check(own_artifact)} == {path.name for path in damaged}


def test_objects_that_no_manifest_names_are_ignored(own_artifact):
    (own_artifact / "payload-00000000000000000000000000000000.safetensors").write_bytes(b"left over")
    (own_artifact / "notes.txt").write_text("mine")
    assert check(own_artifact) == []


def test_exchanged_payloads_are_found(own_artifact):
    a, b = sorted(own_artifact.glob("payload-*"))[:2]
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    assert sorted(problem.where for problem in check(own_artifact)) == sorted([a.name, b.name])


def test_an_index_that_exchanges_two_tensors_is_found(tmp_path, codec, ray_cluster):
    """Same type, shape and payload, all digests right: only the names in the payload tell."""
    tensors = {"q": normal(64, 64, seed=1), "k": normal(64, 64, seed=2), "v": normal(64, 64, seed=3)}
    path = save(tmp_path / "m.safetensors", tensors)
    compress(make_plan(path, codec, CompressOptions(bits=60)), open_store(tmp_path / "out"))
    assert check(tmp_path / "out", path) == []
    place = ("object", "offset", "length", "sha256", "side_nbytes", "mse", "source_sha256")

    def exchange(rows):
        q, k, v = rows
        of = [{name: getattr(row, name) for name in place} for row in rows]
        return [replace(q, **of[1]), replace(k, **of[0]), v]

    rewrite_index(tmp_path / "out", exchange)
    (problem,) = check(tmp_path / "out")
    assert re.search(r"payload-.*: tensor 'q#0': found this name; wanted 'k', #, and a number", str(problem.error))


@pytest.mark.parametrize("factor", [0.0, 0.999, 1.001, 2.0, float("inf")])
def test_a_wrong_recorded_error_is_found_with_the_source(own_artifact, model, factor):
    def worse(rows):
        return [replace(row, mse=row.mse * factor) if row.tensor == "conv" else row for row in rows]

    rewrite_index(own_artifact, worse)
    assert check(own_artifact) == []  # only the source can tell
    (problem,) = check(own_artifact, model)
    assert problem.where == "conv"
    assert re.search(
        r"tensor 'conv', elements \[0, 3456\): found mean squared error \S+; wanted \S+, as recorded",
        str(problem.error),
    )


def test_other_weights_in_the_source_are_found(artifact, tmp_path):
    source = make_model(tmp_path / "model")
    path = source / "model-00002-of-00002.safetensors"
    flip(path, path.stat().st_size - 1)  # in the last tensor
    (problem,) = check(artifact, source)
    assert problem.where == "embedding"
    assert "of the source: found other weights; wanted those that the artifact was made from" in str(problem.error)


def test_tensors_that_the_source_lacks_has_or_shapes_otherwise_are_found(artifact, model, tmp_path):
    source = shutil.copytree(model, tmp_path / "model")
    for path in source.glob("model*"):
        data = path.read_bytes().replace(b'"experts"', b'"experta"')
        path.write_bytes(data.replace(b'"shape":[128,256]', b'"shape":[256,128]'))
    problems = {problem.where: str(problem.error) for problem in check(artifact, source)}
    assert problems.keys() == {"encoder.0.weight", "experts", "experta"}
    assert "of the source: found F32 [256, 128]; wanted F32 [128, 256]" in problems["encoder.0.weight"]
    assert "of the source: found no such tensor; wanted F32 [4, 80, 64]" in problems["experts"]
    assert "tensor 'experta': found it in the source only" in problems["experta"]


def test_a_codec_of_a_newer_version_is_one_problem_not_one_for_each_tensor(own_artifact, codec):
    """The digest is right; this nwc is too old for it."""
    newer = codec.to_bytes().replace(rb"\"version\":1", rb"\"version\":2")
    assert newer != codec.to_bytes()
    rewrite_manifest(own_artifact, codec=put_object(open_store(own_artifact), "codec", newer))
    (problem,) = check(own_artifact)
    assert problem.where.startswith("codec-")
    assert "found codec version 2; wanted at most 1; a newer nwc may read it" in str(problem.error)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, r"manifest\.json: key version: found 2; wanted at most 1; a newer nwc may read it"),
        ("format", "other", r"manifest\.json: key format: found 'other'; wanted 'nwc-artifact'"),
    ],
)
def test_a_manifest_of_another_version_or_format_does_not_open(own_artifact, key, value, message):
    path = own_artifact / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(FormatError, match=message):
        check(own_artifact)


def test_a_folder_without_manifest_is_no_artifact(model, tmp_path):
    for folder in (model, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NwcError, match=r"manifest\.json: no such object"):
            check(folder)


def test_progress_adds_up_to_all_objects(artifact):
    steps = []
    check(artifact, on_progress=steps.append)
    sizes = {name: len(data) for name, data in contents(artifact).items()}
    opened = sum(size for name, size in sizes.items() if name.startswith(("manifest", "index")))
    assert sum(steps) == sum(sizes.values()) - opened


def test_a_problem_carries_its_error(own_artifact):
    flip(own_artifact / "tokenizer.json", 0)
    (problem,) = check(own_artifact)
    assert isinstance(problem.error, IntegrityError)
    assert problem.error.found.startswith("SHA-256 ")
