"""Catalogs of relatives: who is coded against whom, who waits for whom, what it saves; clearing up takes none of it."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
import torch
from checkpoints import normal, save

import nwc_core
from nwc_core.artifact.reader import Artifact
from nwc_core.store import open_store
from nwc_workflows.catalog.collect import delete, find
from nwc_workflows.catalog.rubbish import is_ours
from nwc_workflows.sources import open_checkpoint
from nwc_workflows.verify import verify

OLD = time.time() - 10 * 86400


def base_tensors():
    return {"embed": normal(512, 512, seed=1), "layer": normal(256, 512, seed=2), "norm": normal(512, seed=3)}


def moved(by, seed):
    return {name: tensor + by * normal(*tensor.shape, seed=seed) for name, tensor in base_tensors().items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base with tied weights, two checkpoints of a training, a copy, a stranger. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    tied = base_tensors()["embed"]
    later = moved(0.2, 4)
    further = {name: tensor + 0.02 * normal(*tensor.shape, seed=5) for name, tensor in later.items()}
    of = {
        "a-base": {**base_tensors(), "head": tied.clone()},
        "b-step": {**later, "head": later["embed"].clone()},
        "c-step": {**further, "head": further["embed"].clone()},
        "d-copy": {**base_tensors(), "head": tied.clone()},
        "e-other": {"embed": normal(512, 512, seed=8), "layer": normal(256, 512, seed=9), "norm": normal(512, seed=3)},
        "f-alien": {"weight": normal(256, 512, seed=10)},
    }
    for name, tensors in of.items():
        save(folder / name / "model.safetensors", tensors)
    return folder


@pytest.fixture
def run(nwc, models, tmp_path, ray_cluster):
    """run(text): (exit code, standard error, name to open artifact) of a catalog of all models."""

    def start(text="defaults: {bits: 8, base: auto}\n"):
        file = tmp_path / "catalog.yaml"
        file.write_text(f"destination: {tmp_path}/out/{{name}}\n{text}")
        if "models:" not in text:
            file.write_text(file.read_text() + f"models: [{{prefix: {models}}}]\n")
        code, _, err = nwc("catalog", "run", file, "--output", "json")
        made = sorted((tmp_path / "out").glob("*/manifest.json"))
        return code, err, {path.parent.name: nwc_core.open(path.parent) for path in made}

    return start


def base_of(artifact: Artifact) -> str | None:
    base = artifact.manifest.base
    return None if base is None else artifact.base.store.uri.rpartition("/")[2]


def test_each_is_coded_against_the_likest_before_it(run, models, nwc, tmp_path):
    code, err, artifacts = run()
    assert code == 0, err
    assert {name: base_of(artifact) for name, artifact in artifacts.items()} == {
        **{"a-base": None, "b-step": "a-base", "c-step": "b-step", "d-copy": "a-base"},
        **{"e-other": None, "f-alien": None},
    }
    for name, artifact in artifacts.items():
        assert verify(artifact, open_checkpoint(models / name)) == []
    sizes = {name: artifact.manifest.counts.payload_bytes for name, artifact in artifacts.items()}
    assert sizes["c-step"] < sizes["b-step"] < sizes["a-base"]
    assert sizes["d-copy"] < 1000
    # Bytes at each step, by the command.
    status = json.loads(nwc("catalog", "status", tmp_path / "catalog.yaml", "--savings", "--output", "json")[1])
    parts = {part["kind"]: part for part in status["savings"]}
    tied, whole = 4 * 512 * 512, 4 * (2 * 512 * 512 + 256 * 512 + 512)
    assert parts["copies"]["source_nbytes"] >= whole + 3 * tied  # the copy, and all heads
    assert parts["copies"]["coded_nbytes"] < 1000
    assert 0 < parts["differences"]["coded_nbytes"] < parts["differences"]["source_nbytes"] / 4
    before = sum(part["source_nbytes"] for part in parts.values())
    assert before == sum(4 * artifact.manifest.counts.weights for artifact in artifacts.values())
    assert sum(part["coded_nbytes"] for part in parts.values()) == sum(sizes.values()) - sum(
        # What a payload has besides its blocks: a header.
        next(iter(rows)).offset
        for artifact in artifacts.values()
        for rows in [
            sorted((row for row in artifact.index if row.object == ref.object), key=lambda row: row.offset)
            for ref in artifact.manifest.payloads
        ]
    )


def test_a_base_that_is_named_comes_first(run, models):
    text = f"""models:
- {{source: {models}/c-step, base: a-base}}
- {{source: {models}/a-base}}
- {{source: {models}/b-step, base: "{models.parent}/none.nwc"}}
defaults: {{bits: 8}}
"""
    code, err, artifacts = run(text)
    assert code == 3
    assert "b-step" in err and "none.nwc" in err
    assert {name: base_of(artifact) for name, artifact in artifacts.items()} == {"a-base": None, "c-step": "a-base"}


def test_whoever_has_a_base_that_fails_fails_with_it(run, models, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"no weights")
    text = f"""models:
- {{source: {models}/b-step, base: bad}}
- {{source: {tmp_path}/bad}}
- {{source: {models}/a-base}}
defaults: {{bits: 8}}
"""
    code, err, artifacts = run(text)
    assert code == 3
    assert "b-step: failed: its base, bad, failed" in err
    assert list(artifacts) == ["a-base"]


@pytest.mark.parametrize(
    ("bases", "said"),
    [
        (("b-step", "a-base"), "models[0].base: found a-base of b-step of a-base; wanted no circle"),
        (("a-base", "a-base"), "models[0].base: found 'a-base', itself; wanted another model"),
    ],
)
def test_no_model_is_its_own_base(run, models, bases, said):
    text = "".join(
        f"- {{source: {models}/{name}, base: {base}}}\n" for name, base in zip(("a-base", "b-step"), bases, strict=True)
    )
    code, err, artifacts = run(f"models:\n{text}defaults: {{bits: 8}}\n")
    assert (code, artifacts) == (2, {})
    assert said in err


def test_adding_one_changes_no_other(run, models, tmp_path):
    names = ["a-base", "b-step"]
    _, _, before = run(
        "models:\n"
        + "".join(f"- {{source: {models}/{name}}}\n" for name in names)
        + "defaults: {bits: 8, base: auto}\n"
    )
    digests = {name: artifact.manifest.to_bytes() for name, artifact in before.items()}
    code, err, after = run()
    assert code == 0, err
    assert digests == {name: after[name].manifest.to_bytes() for name in names}


def test_clearing_up_meanwhile_takes_only_what_nobody_needs(run, models, tmp_path):
    """Clears up again and again while a family is written, and what killed runs left, long ago, lies beside it."""
    out = tmp_path / "out"
    left = {}
    for name in ("killed", "b-step/deep"):  # the second below a model that is being written: to be left alone
        place = out / name
        place.mkdir(parents=True)
        for key in ("codec-" + 32 * "0" + ".safetensors", "payload-" + 32 * "1" + ".safetensors"):
            assert is_ours(key)
            (place / key).write_bytes(b"left")
            os.utime(place / key, (OLD, OLD))
            left[name] = place
    ended, errors, rounds = threading.Event(), [], []

    def clear_up():
        store = open_store(out)
        while not ended.is_set():
            try:
                rounds.append(len(delete(store, find(store), 86400.0, lambda nbytes: None)))
            except Exception as error:
                errors.append(error)
            time.sleep(0.01)

    thread = threading.Thread(target=clear_up)
    thread.start()
    try:
        code, err, artifacts = run()
    finally:
        ended.set()
        thread.join()
    assert (code, errors) == (0, []), err
    assert len(rounds) > 10 and sum(rounds) >= 1
    assert not list(left["killed"].glob("*"))
    assert len(artifacts) == 6
    for name, artifact in artifacts.items():
        assert verify(artifact, open_checkpoint(models / name)) == []
        assert len(nwc_core.load(artifact.store)) == len(artifact)


def test_a_base_that_is_gone_is_said(run, models, tmp_path):
    _, _, artifacts = run()
    (tmp_path / "out" / "a-base").rename(tmp_path / "elsewhere")
    with pytest.raises(nwc_core.errors.NotFoundError, match="a-base"):
        nwc_core.load(artifacts["b-step"].store)
    tensors = nwc_core.load(artifacts["b-step"].store, base=tmp_path / "elsewhere")
    assert torch.equal(tensors["head"], tensors["embed"])
