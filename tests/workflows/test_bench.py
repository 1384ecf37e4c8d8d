"""`nwc bench`: the commands."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_samples import checkpoint, samples

from nwc_core.codec import Codec
from nwc_core.matrices import Layout
from nwc_workflows.bench import codec as bench_codec
from nwc_workflows.bench import speed as bench_speed
from nwc_workflows.bench.contenders import CodecContender, IdealScalarContender
from nwc_workflows.bench.measure import Measurement
from nwc_workflows.bench.results import CodecBench
from nwc_workflows.bench.sources import SOURCES
from nwc_workflows.train import find_sources

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--size", "512x1024")


def measured(nwc: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = nwc("bench", *arguments, "--output", "json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_gaussian_meets_the_bounds(nwc: Run) -> None:
    presets = ("--preset", "scalar", "--preset", "default")
    said = measured(nwc, "codec", *SMALL, "--source", "gaussian", *presets, "--bits", "3", "--bits", "5")
    bound = {"scalar": 0.275, "default": 0.10}
    (source,) = said["sources"]
    assert (source["name"], source["shape"]) == ("gaussian", [512, 1024])
    assert len(source["points"]) == 4
    for point in source["points"]:
        assert abs(point["bits"] - point["wanted"]) < 0.02
        assert 0.02 < point["gap"] <= bound[point["preset"]]
        assert point["gap"] == pytest.approx(point["bits"] - point["shannon_bits"])
        assert 0 < point["coder_bits"] < 0.01
        assert point["encode_seconds"] > 0
        assert point["decode_seconds"] > 0
    assert said["environment"]["cpu"]
    assert said["environment"]["packages"]["torch"] == version("torch")
    assert len(said["codecs"][0]["digest"]) == 64
    assert said["tensors"] == said["summary"] == said["comparison"] == []


def test_checkpoint_with_plots(nwc: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bench"
    options = ("--codec", "default", "--codec", "ideal-scalar", "--preset", "default", "--max-weights", "20000")
    said = measured(nwc, "codec", model, *options, "--bits", "3", "--bits", "4", "--out", folder)
    assert said["sources"] == []
    names = [tensor["name"] for tensor in said["tensors"]]
    assert "encoder.0.weight" in names
    assert "experts" in names
    # Constant and non-finite tensors are coded without loss, and said to be left out.
    assert {f"{model.name}/constant", f"{model.name}/nan"} <= set(said["coded_losslessly"])
    for tensor in said["tensors"]:
        assert tensor["coded_weights"] <= min(tensor["weights"], 22000)
        wanted = [(p["contender"], p["wanted"]) for p in tensor["points"]]
        assert wanted == [
            *(("default:default", rate) for rate in (3.0, 4.0)),
            *(("ideal-scalar", rate) for rate in (3.0, 4.0, 5.0)),  # compared with, so known a bit farther
        ]
    assert {(c["label"], c["baseline"]) for c in said["comparison"]} == {("default:default", "ideal-scalar")}
    assert all(len(c["saved"]) == len(names) for c in said["comparison"])
    assert json.loads((folder / "codec.json").read_text()) == said
    assert {path.name for path in folder.iterdir()} == {"codec.json", "tensors.png", "saved.png"}
    for path in folder.glob("*.png"):
        data = path.read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG")
        assert min(width, height) >= 600
        assert len(data) > 20_000  # something is drawn


def test_tables_for_people(nwc: Run, model: Path) -> None:
    arguments = ("--source", "laplace", "--size", "64x64", "--preset", "fast", "--bits", "3", "--codec", "default")
    code, out, err = nwc("bench", "codec", model, *arguments, "--codec", "ideal-scalar", "--max-weights", "2048")
    assert code == 0, err
    assert "Laplacian, 64 x 64 samples" in out
    assert "tensors of model" in out.replace(model.name, "model")
    assert "saved at equal mean squared error" in out
    assert "left out, since coded without loss" in out
    assert "default:fast" in out


def test_every_source_gets_a_plot(nwc: Run, tmp_path: Path) -> None:
    said = measured(nwc, "codec", "--size", "64x64", "--preset", "fast", "--bits", "3", "--out", tmp_path)
    names = {source["name"] for source in said["sources"]}
    assert names == {"gaussian", "laplace", "student-t"}
    assert {path.name for path in tmp_path.iterdir()} == {"codec.json", *(f"{name}.png" for name in names)}


def test_rates_are_sorted_and_compiling_is_not_timed(nwc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    original = CodecContender.measure

    def measure(self: CodecContender, weight: torch.Tensor, layout: Layout, setting: float) -> Measurement | None:
        seen.append(tuple(weight.shape))
        return original(self, weight, layout, setting)

    monkeypatch.setattr(CodecContender, "measure", measure)
    arguments = ("--source", "gaussian", "--size", "96x64", "--preset", "fast", "--bits", "4", "--bits", "2.5")
    said = measured(nwc, "codec", *arguments, "--bits", "4")
    assert [point["wanted"] for point in said["sources"][0]["points"]] == [2.5, 4.0]
    assert seen == [(64, 64), (96, 64), (96, 64)]


def test_the_progress_reaches_its_end_whatever_is_left_out(codec: Codec, tmp_path: Path) -> None:
    path = checkpoint(
        tmp_path,
        "model",
        constant=torch.ones(64, 64),
        mask=(samples("gaussian", 64, 64) > 0).float(),  # for which the lossless coder wins, and not at once
        w=samples("gaussian", 64, 64),
    )
    first = [CodecContender("default", codec, "fast")]
    plan = CodecBench([first, [IdealScalarContender()]], [3.0, 4.0])
    opened, chosen = find_sources([str(path)]), [SOURCES["laplace"]]
    done: list[float] = []
    results = bench_codec.run(plan, chosen, (64, 64), opened, done.append)
    assert set(results.lossless) == {"model/constant", "model/mask"}
    assert sum(done) == bench_codec.encodings(plan, chosen, opened) == 2 * 2 + 3 * (2 + 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("codec", "--size", "4096"), "ROWSxCOLUMNS"),
        (("codec", "--size", "16x4096"), "at least 32"),
        (("codec", "--bits", "0"), "--bits"),
        (("codec", "--source", "cauchy"), "cauchy"),
        (("codec", "--codec", "default", "--codec", "default"), "two named 'default'"),
        (("codec", "--out", "/dev/null/x"), "--out"),
    ],
)
def test_wrong_usage(nwc: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = nwc("bench", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_unknown_codec(failing: Callable[..., str]) -> None:
    assert "unknown codec 'none'" in failing("bench", "codec", "--codec", "none")


def test_missing_matplotlib_is_said_before_anything_is_measured(
    nwc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench_codec, "run", lambda *_: pytest.fail("measured"))
    code, out, err = nwc("bench", "codec", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "nwc[plots]" in line
    assert not (tmp_path / "out").exists()


def test_speed(nwc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zipnn", None)  # which takes part where it is installed
    small = {kind: tensor[:64] for kind, tensor in bench_speed.speed_tensors().items()}
    monkeypatch.setattr(bench_speed, "speed_tensors", lambda: small)
    monkeypatch.setattr(bench_speed, "_ENOUGH_SECONDS", 0.0)
    said = measured(nwc, "speed", "--preset", "fast", "--bits", "3")
    assert set(said["tensors"]) == {"linear", "conv"}
    for kind, found in said["tensors"].items():
        assert found["shape"] == list(small[kind].shape)
        speeds = found["speeds"]
        assert [(s["what"], s["threads"]) for s in speeds] == [
            *(("memcpy", 1), ("zstd -3, compress", 1), ("zstd -3, decompress", 1)),
            *(("encode", 1), ("encode", 2)),
            *(("encode, a tensor on each thread", 1), ("encode, a tensor on each thread", 2)),
            *(("decode, digest checked", 1), ("decode, digest checked", 2)),
            *(("decode, a tensor on each thread", 1), ("decode, a tensor on each thread", 2)),
            *(("encode, one pass at the final step", 1), ("encode, one pass at the final step", 2)),
            *(("  search alone", 1), ("  entropy coder alone", 1)),
        ]
        assert all(s["seconds"] > 0 for s in speeds)
        encode = next(s for s in speeds if s["what"] == "encode")
        assert 8 * encode["nbytes"] / encode["weights"] == pytest.approx(3, abs=0.1)
    code, out, _ = nwc("bench", "speed", "--preset", "fast")
    assert code == 0
    assert "conv, 64 x 512 x 3 x 3 bfloat16 weights at 4 bits" in out
