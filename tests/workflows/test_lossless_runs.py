"""Compressing without loss, altogether or some tensors: bit for bit, smaller, and at odds with what asks for a rate."""

from __future__ import annotations

import json

import pytest
from checkpoints import contents, lossless_tensors, lossy_tensors, make_model, normal, save
from safetensors.torch import load_file

import nwc_core
from nwc_core.encoded import LOSSY_CODERS


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
