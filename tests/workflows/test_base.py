"""Compressing against a base: smaller at the same error, exact where it must be, and never read with another base."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from checkpoints import contents, normal, save
from safetensors.torch import load_file

import nwc_core
from nwc_core.errors import IntegrityError, NotFoundError
from nwc_core.store import open_store
from nwc_workflows.base import open_base
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan


def base_tensors():
    """Weights of several types, a norm, integers; and one tensor that only the base has."""
    return {
        "a.weight": normal(128, 256, seed=1),
        "b.weight": normal(128, 128, dtype=torch.bfloat16, seed=2),
        "experts": normal(2, 64, 96, seed=3),
        "norm": normal(256, seed=4).abs(),
        "ids": torch.arange(64),
        "gone": normal(64, 64, seed=5),
    }


def tuned_tensors():
    """A fine-tune of that: most weights a tenth away, one as it was, one that is no relative, one new."""
    tuned = {name: tensor.clone() for name, tensor in base_tensors().items() if name != "gone"}
    tuned["a.weight"] += 0.1 * normal(128, 256, seed=11)
    tuned["experts"] = normal(2, 64, 96, seed=13)
    tuned["norm"] *= 1.001
    tuned["new"] = normal(64, 64, seed=14)
    return tuned


@pytest.fixture(scope="module")
def folder(ray_cluster, codec, tmp_path_factory):
    """base, tuned: checkpoints; base.nwc. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("family")
    save(folder / "base" / "model.safetensors", base_tensors())
    save(folder / "tuned" / "model.safetensors", tuned_tensors())
    compress(make_plan(folder / "base", codec, CompressOptions(bits=9)), open_store(folder / "base.nwc"))
    return folder


def run(folder, codec, name, *, base=True, **options):
    plan = make_plan(
        folder / "tuned",
        codec,
        CompressOptions(**(options or {"bits": 9})),
        base=open_base(folder / "base.nwc") if base else None,
    )
    return compress(plan, open_store(folder / name))


def coders(folder):
    with nwc_core.open(folder) as artifact:
        return {row.tensor: row.coder for row in artifact.index}


def errors(folder):
    originals, decoded = tuned_tensors(), nwc_core.load(folder)
    return {name: float((decoded[name].double() - originals[name].double()).norm()) for name in originals}


def test_it_is_smaller_and_as_good(folder, codec):
    alone, against = run(folder, codec, "alone.nwc", base=False), run(folder, codec, "tuned.nwc")
    assert coders(folder / "tuned.nwc") == {
        **{"a.weight": "nwc-delta", "b.weight": "exact-delta", "experts": "nwc", "new": "nwc"},
        **{"norm": "exact-delta", "ids": "exact-delta"},
    }
    assert against.weight_nbytes < 0.75 * alone.weight_nbytes
    found, wanted = errors(folder / "tuned.nwc"), errors(folder / "alone.nwc")
    for name in ("a.weight", "experts", "new", "b.weight"):
        assert found[name] < 1.15 * wanted[name]
    decoded = nwc_core.load(folder / "tuned.nwc")
    assert decoded["norm"].equal(tuned_tensors()["norm"])
    assert decoded["ids"].equal(torch.arange(64))
    with nwc_core.open(folder / "tuned.nwc") as artifact, nwc_core.open(folder / "base.nwc") as base:
        assert artifact.get_tensor("b.weight").equal(base.get_tensor("b.weight"))
        assert artifact.get_slice("a.weight")[3:70, 5:9].equal(decoded["a.weight"][3:70, 5:9])


def test_blocks_and_workers_change_nothing(folder, codec, tmp_path, monkeypatch, small_tasks):
    from nwc_workflows import blocks

    monkeypatch.setattr(blocks, "MAX_BLOCK_WEIGHTS", 5000)
    monkeypatch.setattr(blocks.cut_tensor, "__defaults__", (5000,))
    shutil.copytree(folder, tmp_path / "f")
    for workers in (1, 2):
        plan = make_plan(
            tmp_path / "f" / "tuned", codec, CompressOptions(bits=9), base=open_base(tmp_path / "f" / "base.nwc")
        )
        compress(plan, open_store(tmp_path / "f" / f"by{workers}.nwc"), workers=workers)
    assert contents(tmp_path / "f" / "by1.nwc") == contents(tmp_path / "f" / "by2.nwc")
    assert errors(tmp_path / "f" / "by1.nwc")["norm"] == 0


def test_most_bytes_are_met(folder, codec):
    alone = run(folder, codec, "sized.nwc", base=False, max_bytes=60_000)
    against = run(folder, codec, "sized-base.nwc", max_bytes=60_000)
    assert 55_000 < against.weight_nbytes <= 60_000
    assert alone.weight_nbytes <= 60_000
    assert errors(folder / "sized-base.nwc")["a.weight"] < 0.7 * errors(folder / "sized.nwc")["a.weight"]


def test_the_commands(folder, nwc, tmp_path):
    code, _, err = nwc(
        *("compress", folder / "tuned", tmp_path / "t.nwc", "--bits", 9, "--base", folder / "base.nwc"),
        *("--output", "json"),
    )
    assert code == 0, err
    code, _, err = nwc("plan", folder / "tuned", "--bits", 9, "--base", folder / "base.nwc", "--output", "json")
    assert code == 0, err
    code, _, err = nwc("verify", tmp_path / "t.nwc", "--source", folder / "tuned")
    assert code == 0, err
    code, _, err = nwc("decompress", tmp_path / "t.nwc", tmp_path / "back")
    assert code == 0, err
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(back[name].equal(tensor) for name, tensor in nwc_core.load(tmp_path / "t.nwc").items())


def test_a_base_that_moved_is_asked_for(folder, codec, nwc, tmp_path):
    shutil.copytree(folder / "base.nwc", tmp_path / "base.nwc")
    plan = make_plan(folder / "tuned", codec, CompressOptions(bits=9), base=open_base(tmp_path / "base.nwc"))
    compress(plan, open_store(tmp_path / "t.nwc"))
    wanted = nwc_core.load(tmp_path / "t.nwc")
    shutil.move(tmp_path / "base.nwc", tmp_path / "elsewhere.nwc")
    with nwc_core.open(tmp_path / "t.nwc") as artifact:
        assert artifact.get_tensor("experts").equal(wanted["experts"])  # which needs no base
        with pytest.raises(NotFoundError, match=r"base\.nwc.*wanted the base of .*t\.nwc"):
            artifact.get_tensor("a.weight")
    shutil.copytree(folder / "base.nwc", tmp_path / "base.nwc")
    (tmp_path / "base.nwc" / "manifest.json").write_bytes((tmp_path / "base.nwc" / "manifest.json").read_bytes() + b" ")
    with (
        nwc_core.open(tmp_path / "t.nwc") as artifact,
        pytest.raises(IntegrityError, match="wanted the base of"),
    ):
        artifact.get_tensor("a.weight")
    with nwc_core.open(tmp_path / "t.nwc", base=tmp_path / "elsewhere.nwc") as artifact:
        assert artifact.get_tensor("a.weight").equal(wanted["a.weight"])
    assert nwc("verify", tmp_path / "t.nwc")[0] == 1
    code, _, err = nwc("verify", tmp_path / "t.nwc", "--base", tmp_path / "elsewhere.nwc", "--source", folder / "tuned")
    assert code == 0, err
    code, _, err = nwc("compress", folder / "tuned", tmp_path / "u.nwc", "--base", tmp_path / "nowhere")
    assert code == 1
    assert "no artifact is there; wanted what nwc compress made of the relative" in err


def test_another_base_makes_another_artifact(folder, codec, nwc, tmp_path):
    shutil.copytree(folder, tmp_path / "f")
    again = run(tmp_path / "f", codec, "tuned2.nwc")
    assert again.created
    assert not run(tmp_path / "f", codec, "tuned2.nwc").created
    code, _, err = nwc("compress", tmp_path / "f" / "tuned", tmp_path / "f" / "tuned2.nwc", "--bits", 9)
    assert code == 1
    assert "base: there" in err


FAMILY = """
destination: {out}/{{name}}
models:
- {{source: {models}/tuned, name: z/tuned, base: {named}}}
- {{source: {models}/base, name: a}}
- {{source: {models}/tuned, name: likest, base: auto}}
- {{source: {models}/other, name: other, base: auto}}
defaults: {{bits: 9}}
"""


def catalog(folder, tmp_path, named="a"):
    save(tmp_path / "models" / "other" / "model.safetensors", {"a.weight": normal(128, 256, seed=77)})
    for name in ("base", "tuned"):
        shutil.copytree(folder / name, tmp_path / "models" / name, dirs_exist_ok=True)
    path = tmp_path / "c.yaml"
    path.write_text(FAMILY.format(out=tmp_path / "out", models=tmp_path / "models", named=named))
    return path


def test_a_catalog_of_relatives(folder, nwc, tmp_path):
    path = catalog(folder, tmp_path)
    code, out, err = nwc("catalog", "run", path, "--output", "json")
    assert code == 0, err
    done = {model["name"]: model for model in json.loads(out)["models"]}
    assert done["z/tuned"]["artifact_bytes"] < 0.75 * done["a"]["artifact_bytes"]
    assert coders(tmp_path / "out" / "z" / "tuned")["a.weight"] == "nwc-delta"
    assert set(coders(tmp_path / "out" / "likest").values()) == {"exact-delta"}  # the very same as z/tuned
    assert set(coders(tmp_path / "out" / "other").values()) == {"nwc"}
    wanted = nwc_core.load(tmp_path / "out" / "z" / "tuned")
    assert all(tensor.equal(wanted[name]) for name, tensor in nwc_core.load(tmp_path / "out" / "likest").items())
    code, out, err = nwc("catalog", "status", path, "--savings", "--output", "json")
    assert code == 0, err
    kinds = {part["kind"]: part for part in json.loads(out)["savings"]}
    assert kinds["copies"]["blocks"] == 6 + 2  # of likest; b.weight and ids of z/tuned
    assert kinds["copies"]["coded_nbytes"] < 200
    assert kinds["differences"]["blocks"] == 2
    code, out, err = nwc("catalog", "run", path, "--output", "json")
    assert json.loads(out)["done_already"] == 4
    code, out, err = nwc("catalog", "gc", path, "--older-than", 0)
    assert code == 0, err


def test_what_waits_for_a_failure_fails(folder, nwc, tmp_path):
    path = catalog(folder, tmp_path)
    broken = tmp_path / "models" / "base" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    code, out, err = nwc("catalog", "run", path, "--output", "json")
    assert code == 3, err
    states = {model["name"]: (model["outcome"], model["reason"]) for model in json.loads(out)["models"]}
    assert states["z/tuned"] == ("failed", "its base, a, failed")
    assert states["other"][0] == "done"


@pytest.mark.parametrize(
    ("named", "said"),
    [("z/tuned", "found 'z/tuned', itself; wanted another model"), ("likest", "found z/tuned of likest of z/tuned")],
)
def test_circles_are_refused(folder, nwc, tmp_path, named, said):
    path = catalog(folder, tmp_path, named)
    path.write_text(path.read_text().replace("name: likest, base: auto", "name: likest, base: z/tuned"))
    code, _, err = nwc("catalog", "run", path)
    assert code == 2
    assert said in err
