"""Copies within a checkpoint: stored once, exact for those that are none, and found whatever else is asked for."""

from __future__ import annotations

import pytest
import torch
from calibration_models import calibrate_here
from checkpoints import normal, save
from evaluation_models import make_llama, text
from safetensors.torch import load_file, save_file

import nwc_core
from nwc_core.artifact.index_checks import MAX_SHARING
from nwc_core.store import open_store
from nwc_workflows import twins
from nwc_workflows.base import open_base
from nwc_workflows.calibration.reading import Calibration
from nwc_workflows.catalog.savings import savings
from nwc_workflows.compress import compress
from nwc_workflows.inspect import summarise
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.recovery.rewrite import rewrite
from nwc_workflows.sources import open_checkpoint
from nwc_workflows.verify import verify

ROWS, COLUMNS = 128, 256


@pytest.fixture(autouse=True)
def small_tensors_count(monkeypatch):
    monkeypatch.setattr(twins, "MIN_NBYTES", 1 << 12)


def tied(**others):
    embed = normal(ROWS, COLUMNS, seed=1)
    return {"embed": embed, "layer": normal(ROWS, COLUMNS, seed=2), "head": embed.clone(), **others}


@pytest.fixture
def made(serial, codec, tmp_path):
    """made(tensors, name="model", **options): the open artifact of a checkpoint, verified against it."""

    def make(tensors, name="model", base=None, calibration=None, **options):
        if isinstance(tensors, dict):
            save(tmp_path / name / "model.safetensors", tensors)
            source = tmp_path / name
        else:
            source = tensors
        found = CompressOptions(**(options or {"bits": 9}))
        plan = make_plan(source, codec, found, calibration, base=base)
        compress(plan, open_store(tmp_path / f"{name}.nwc"))
        artifact = nwc_core.open(tmp_path / f"{name}.nwc")
        assert verify(artifact, plan.checkpoint) == []
        return artifact

    return make


def shared(artifact):
    """Names of tensors to that of the one whose bytes they have."""
    return {t.name: t.copy_of for t in summarise(artifact) if t.copy_of is not None}


@pytest.mark.parametrize(
    "options", [{"bits": 9}, {"lossless": True}, {"max_relative_error": 0.01}, {"max_absolute_error": 0.001}]
)
def test_a_copy_takes_no_bytes(made, options):
    artifact = made(tied(), **options)
    assert shared(artifact) == {"head": "embed"}
    unlike = made(tied(head=normal(ROWS, COLUMNS, seed=3)), "unlike", **options)
    assert artifact.manifest.counts.payload_bytes < 0.68 * unlike.manifest.counts.payload_bytes
    tensors = nwc_core.load(artifact.store)
    assert torch.equal(tensors["head"], tensors["embed"])
    assert torch.equal(artifact.get_tensor("head"), tensors["embed"])
    assert list(tensors) == list(tied())  # as in the file


def test_it_is_as_good_as_without(made):
    artifact = made(tied())
    alone = made(tied(head=normal(ROWS, COLUMNS, seed=3)), "alone")
    for name in ("embed", "layer"):
        ours, theirs = ({t.name: t.mse for t in summarise(one)}[name] for one in (artifact, alone))
        assert ours == pytest.approx(theirs, rel=0.05)


def test_a_size_in_bytes_is_met(made):
    limit = 120_000
    artifact = made(tied(), max_bytes=limit)
    nbytes = sum(info.size for info in artifact.store.list())
    assert shared(artifact) and 0.99 * limit < nbytes <= limit


def test_what_only_seems_to_be_a_copy_is_coded(made):
    near = tied()["embed"].clone()
    near[ROWS // 3, 3] += 1  # away from where samples are taken
    tensors = tied(near=near)
    artifact = made(tensors)
    assert twins.find_alike(open_checkpoint(artifact.store.path.parent / "model"))["near"] == "embed"
    assert shared(artifact) == {"head": "embed"}


def test_other_wishes_for_a_copy_are_heeded(made):
    artifact = made(tied(), bits=16, lossless_tensors=("head",))
    assert shared(artifact) == {}
    assert torch.equal(artifact.get_tensor("head"), tied()["head"])


def test_the_layers_of_a_network_are_not_asked_for(made, monkeypatch):
    asked = []
    read = twins.read_bytes
    monkeypatch.setattr(twins, "read_bytes", lambda *args, **where: asked.append(args[1].name) or read(*args, **where))
    layers = {f"layers.{i}": normal(ROWS, COLUMNS, seed=i) for i in range(MAX_SHARING + 1)}
    made(layers)
    assert asked == []
    made(tied(), "tied")
    assert set(asked) == {"embed", "head", "layer"}


def test_against_a_base_copies_share_where_the_base_does(made):
    base = open_base(made(tied(), "base").store)
    moved = tied()["embed"] + 0.1 * normal(ROWS, COLUMNS, seed=4)
    artifact = made({**tied(), "embed": moved, "head": moved.clone()}, "tuned", base=base)
    assert {row.tensor: row.coder for row in artifact.index}["embed"] == "nwc-delta"
    assert shared(artifact) == {"head": "embed"}


def test_against_another_base_they_do_not(made):
    base = open_base(made({**tied(), "head": tied()["layer"]}, "base").store)
    moved = tied()["embed"] + 0.1 * normal(ROWS, COLUMNS, seed=4)
    artifact = made({**tied(), "embed": moved, "head": moved.clone()}, "tuned", base=base)
    coders = {row.tensor: row.coder for row in artifact.index}
    assert (coders["embed"], coders["head"]) == ("nwc-delta", "nwc")
    assert shared(artifact) == {}


def test_what_a_calibration_knows_is_coded_for_itself_and_tied_weights_once(made, serial, tmp_path, monkeypatch):
    model = make_llama(tmp_path / "llama", tied=True)
    file = model / "model.safetensors"
    tensors = load_file(file)
    embed = "model.embed_tokens.weight"
    tensors["lm_head.weight"] = tensors[embed].clone()  # as it is stored by tools that know nothing of tied weights
    save_file(tensors, file, metadata={"format": "pt"})
    (tmp_path / "text.txt").write_text(text(400))
    calibrate_here(model, tmp_path / "text.txt", tmp_path / "calibration", window=32)
    calibration = Calibration.open(tmp_path / "calibration")
    artifact = made(model, "llama", calibration=calibration, bits=10)
    assert [embed, "lm_head.weight"] == sorted({*shared(artifact), *shared(artifact).values()}, reverse=True)
    # Two that the calibration knows are no copies, however equal.
    monkeypatch.setattr(Calibration, "names", property(lambda self: [embed, "lm_head.weight"]))
    assert twins.find_alike(open_checkpoint(model), calibration.names) == {}


def test_copies_that_are_changed_part(made, tmp_path):
    artifact = made(tied(), lossless=True)
    assert rewrite(artifact.store, {"layer": tied()["layer"] + 1}) is not None
    assert shared(nwc_core.open(artifact.store)) == {"head": "embed"}
    assert rewrite(artifact.store, {"head": tied()["head"] + 1}) is not None
    again = nwc_core.open(artifact.store)
    assert shared(again) == {}
    assert torch.equal(again.get_tensor("embed"), tied()["embed"])
    assert torch.equal(again.get_tensor("head"), tied()["head"] + 1)


def test_it_is_said(made, nwc, tmp_path):
    artifact = made(tied())
    assert "1 seem to be copies of another tensor" in nwc("plan", tmp_path / "model", "--bits", "9")[1]
    assert "as embed" in nwc("inspect", tmp_path / "model.nwc", "--flat")[1]
    copies = next(part for part in savings([artifact.store]) if part.kind == "copies")
    assert (copies.source_nbytes, copies.coded_nbytes, copies.blocks) == (4 * ROWS * COLUMNS, 0, 1)
