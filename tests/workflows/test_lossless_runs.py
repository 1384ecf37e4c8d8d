"""Compressing without loss, altogether or some tensors: bit for bit, smaller, and at odds with what asks for a rate."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from checkpoints import contents, lossless_tensors, lossy_tensors, make_model, normal, save
from safetensors.torch import load_file

import nwc_core
from nwc_core.encoded import LOSSY_CODERS
from nwc_core.lossless import tensor_bytes
from nwc_core.store import open_store
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.verify import verify


def coders(folder):
    with nwc_core.open(folder) as artifact:
        return {row.tensor: row.coder for row in artifact.index}


def test_a_whole_checkpoint_comes_back_bit_for_bit(nwc, model, ray_cluster, small_tasks, tmp_path):
    code, out, err = nwc("compress", model, tmp_path / "a.nwc", "--lossless", "--output", "json")
    assert code == 0, err
    found = json.loads(out)
    assert found["weight_bytes"] < found["source_bytes"]
    used = set(coders(tmp_path / "a.nwc").values())
    assert "float" in used
    assert not used & set(LOSSY_CODERS)
    code, out, err = nwc("verify", tmp_path / "a.nwc", "--source", model)
    assert code == 0, err
    assert "all equal it bit for bit" in out
    assert nwc("decompress", tmp_path / "a.nwc", tmp_path / "back")[0] == 0
    wanted = {name: data for name, data in contents(model).items() if name != "pytorch_model.bin"}
    assert {name: data for name, data in contents(tmp_path / "back").items() if name in wanted} == wanted
    code, _, err = nwc("compress", model, tmp_path / "b.nwc", "--lossless", "--workers", 1)
    assert code == 0, err
    assert contents(tmp_path / "a.nwc") == contents(tmp_path / "b.nwc")


def test_some_tensors_are_kept_whole(nwc, ray_cluster, tmp_path):
    tensors = {
        "embed.weight": normal(200, 64, seed=1),
        "a.weight": normal(128, 256, seed=2),
        "b.weight": normal(96, 96),
    }
    path = save(tmp_path / "m.safetensors", tensors)
    arguments = (
        "compress",
        path,
        tmp_path / "m.nwc",
        "--bits",
        18,
        "--lossless-tensor",
        "emb*",
        "--lossless-tensor",
        "b.*",
    )
    code, _, err = nwc(*arguments)
    assert code == 0, err
    found = coders(tmp_path / "m.nwc")
    assert found["a.weight"] == "nwc"
    assert not {found["embed.weight"], found["b.weight"]} & set(LOSSY_CODERS)
    decoded = nwc_core.load(tmp_path / "m.nwc")
    assert all(decoded[name].equal(tensors[name]) for name in ("embed.weight", "b.weight"))
    code, _, err = nwc("plan", path, "--bits", 18, "--lossless-tensor", "nothing*")
    assert code == 0
    assert "nothing*" in err


@pytest.mark.parametrize("others", [("--bits", 4), ("--max-bytes", 10_000), ("--quality", "kl=1")])
def test_what_asks_for_a_rate_is_refused(nwc, model, tmp_path, others):
    code, _, err = nwc("compress", model, tmp_path / "out", "--lossless", *others)
    assert code == 2
    assert "lossless" in err
    assert not (tmp_path / "out").exists()


def test_in_a_catalog(nwc, ray_cluster, tmp_path):
    make_model(tmp_path / "models" / "whole")
    save(tmp_path / "models" / "mixed" / "model.safetensors", {"embed": normal(99, 64), "w": normal(128, 128, seed=2)})
    path = tmp_path / "c.yaml"
    path.write_text(
        f"destination: {tmp_path}/out/{{name}}\nmodels:\n- {{source: {tmp_path}/models/whole, lossless: true}}\n"
        f"- {{source: {tmp_path}/models/mixed, bits: 14, lossless_tensor: [embed]}}\n"
    )
    code, _, err = nwc("catalog", "run", path)
    assert code == 0, err
    assert not set(coders(tmp_path / "out" / "whole").values()) & set(LOSSY_CODERS)
    assert set(coders(tmp_path / "out" / "whole")) >= {*lossy_tensors(), *lossless_tensors()}
    assert coders(tmp_path / "out" / "mixed")["w"] == "nwc"
    original = load_file(tmp_path / "models" / "mixed" / "model.safetensors")
    assert nwc_core.load(tmp_path / "out" / "mixed")["embed"].equal(original["embed"])


def test_within_a_named_error(nwc, model, ray_cluster, small_tasks, tmp_path):
    """Floats are off by no more than was said, all else is as it was; NaN and infinities, too."""
    arguments = ("compress", model, tmp_path / "near.nwc", "--max-relative-error", 0.01, "--lossless-tensor", "conv")
    code, out, err = nwc(*arguments, "--output", "json")
    assert code == 0, err
    near = json.loads(out)
    code, out, err = nwc("compress", model, tmp_path / "exact.nwc", "--lossless", "--output", "json")
    assert near["weight_bytes"] < 0.8 * json.loads(out)["weight_bytes"]
    tensors, found = {**lossy_tensors(), **lossless_tensors()}, nwc_core.load(tmp_path / "near.nwc")
    for name, tensor in tensors.items():
        if tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            off = (found[name].double() - tensor.double()).abs()
            finite = tensor.isfinite()
            assert (off[finite] <= 0.01 * tensor.double().abs()[finite]).all()
            assert found[name][~finite].view(-1).equal(tensor[~finite].view(-1)) or tensor[~finite].isnan().any()
        else:
            assert tensor_bytes(found[name]).tobytes() == tensor_bytes(tensor).tobytes()
    assert found["conv"].equal(tensors["conv"])
    assert not found["encoder.0.weight"].equal(tensors["encoder.0.weight"])
    code, out, err = nwc("verify", tmp_path / "near.nwc", "--source", model)
    assert code == 0, err
    assert "no float of the others is off by more than 0.01 of itself" in out
    code, out, _ = nwc("plan", model, "--max-relative-error", 0.01)
    assert code == 0
    assert "at most" in out


def test_within_an_error_that_is_the_same_for_all(nwc, model, ray_cluster, small_tasks, tmp_path):
    code, out, err = nwc("compress", model, tmp_path / "near.nwc", "--max-absolute-error", 0.001, "--output", "json")
    assert code == 0, err
    nbytes = json.loads(out)["weight_bytes"]
    _, out, _ = nwc("compress", model, tmp_path / "exact.nwc", "--lossless", "--output", "json")
    assert nbytes < 0.5 * json.loads(out)["weight_bytes"]
    tensors, found = {**lossy_tensors(), **lossless_tensors()}, nwc_core.load(tmp_path / "near.nwc")
    for name, tensor in tensors.items():
        if name in lossy_tensors():
            assert 0 < (found[name].double() - tensor.double()).abs().max() <= 0.001
        else:
            assert tensor_bytes(found[name]).tobytes() == tensor_bytes(tensor).tobytes()
    code, out, err = nwc("verify", tmp_path / "near.nwc", "--source", model)
    assert code == 0, err
    assert "no float of the others is off by more than 0.001\n" in out


def test_a_bound_that_does_not_hold_is_found(model, codec, ray_cluster, small_tasks, tmp_path):
    made = make_plan(model, codec, CompressOptions(max_absolute_error=0.001))
    promised = replace(made, options=replace(made.options, max_absolute_error=0.0005))
    artifact = nwc_core.open(tmp_path / "near.nwc") if compress(made, open_store(tmp_path / "near.nwc")) else None
    assert verify(artifact, made.checkpoint) == []
    artifact.manifest.job["max_absolute_error"] = promised.options.max_absolute_error
    problems = verify(artifact, made.checkpoint)
    assert {problem.where for problem in problems} == set(lossy_tensors())
    assert all("off by more than 0.0005" in str(problem.error) for problem in problems)


@pytest.mark.parametrize("kind", ["relative", "absolute"])
@pytest.mark.parametrize("others", [("--bits", 4), ("--lossless",), ("--quality", "kl=1")])
def test_an_error_and_a_rate_are_refused(nwc, model, tmp_path, others, kind):
    code, _, err = nwc("compress", model, tmp_path / "out", f"--max-{kind}-error", 0.01, *others)
    assert code == 2
    assert f"max_{kind}_error" in err


def test_two_bounds_are_refused(nwc, model, tmp_path):
    code, _, err = nwc("compress", model, tmp_path / "out", "--max-relative-error", 0.1, "--max-absolute-error", 0.1)
    assert code == 2
    assert "max_relative_error and max_absolute_error: found both; wanted one of them" in err


@pytest.mark.parametrize("bound", [0, 0.5, -1, "nan"])
def test_errors_that_make_no_sense(nwc, model, tmp_path, bound):
    code, _, err = nwc("compress", model, tmp_path / "out", "--max-relative-error", bound)
    assert code == 2
    assert "wanted above 0 and below 0.5" in err
