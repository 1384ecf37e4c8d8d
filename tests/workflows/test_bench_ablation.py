"""`nwc bench ablation`: what is removed is removed, and what it costs is what theory says."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_samples import QUICK, checkpoint, kernels, samples

import nwc_core
from nwc_core.codec import Codec
from nwc_core.errors import UsageError
from nwc_core.matrices import default_layout
from nwc_core.training.autoencoder import Autoencoder
from nwc_core.training.dataset import WeightMatrix
from nwc_core.training.export import export
from nwc_workflows.bench import trained, variants
from nwc_workflows.bench.ablation import Losses, Measuring
from nwc_workflows.bench.code_length import matrix_streams
from nwc_workflows.bench.hand_made import FREEDOMS
from nwc_workflows.bench.statistics import rate_at
from nwc_workflows.bench.trained import Workshop
from nwc_workflows.bench.training_variants import Training, steps_at
from nwc_workflows.bench.variants import coder_of, contender, part_ablation
from nwc_workflows.progress import Progress
from nwc_workflows.train import find_sources

Run = Callable[..., tuple[int, str, str]]


class Silent:
    """Progress that nobody watches, up to a point where work is interrupted."""

    def __init__(self, until: float = math.inf) -> None:
        self.left = until

    def advance(self, amount: float) -> None:
        self.left -= amount
        if self.left < 0:
            raise KeyboardInterrupt


def silently(total: int, what: str) -> AbstractContextManager[Progress]:
    return nullcontext(Silent())


def measured(
    codec: Codec, path: Path, titles: Sequence[str], rates: Sequence[float] = (3.0, 4.0), preset: str = "default"
) -> tuple[dict[tuple[str, float | None], float], Losses]:
    """Bits lost by some of the changes at each rate (None: mean over all), mean over tensors."""
    whole = part_ablation(codec, preset)
    some = replace(whole, changes=[change for change in whole.changes if change.title.startswith(tuple(titles))])
    assert len(some.changes) == len(titles)
    losses = Measuring(list(rates), find_sources([str(path)])).measure(some, lambda amount: None)
    return {(c.baseline, c.wanted): c.plain.mean for c in losses.comparisons}, losses


def test_the_trellis_and_the_tables_on_a_gaussian(codec: Codec, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "model", w=samples("gaussian", 256, 384))
    titles = ["scalar quantiser", "trellis of 4 ", "trellis of 64 ", "no bases", "no scale", "row-", "Gaussian tables"]
    lost, _ = measured(codec, path, titles)
    for rate in (3.0, 4.0, None):
        assert 0.15 < lost["scalar quantiser", rate] < 0.20
        assert 0.008 < lost["trellis of 4 states", rate] < 0.025
        assert -0.045 < lost["trellis of 64 states", rate] < -0.015
        # Nothing to gain from these where all weights are alike, nor from tables that are not Gaussian.
        for title in ("no bases", "no scale contexts", "row-normalised steps", "Gaussian tables"):
            assert abs(lost[title, rate]) < 0.012
    lost, _ = measured(codec, path, ["trellis of 8 "], preset="scalar")
    assert -0.20 < lost["trellis of 8 states", None] < -0.15


def test_tables_on_a_laplacian(codec: Codec, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "model", w=samples("laplace", 256, 384))
    lost, losses = measured(codec, path, ["Gaussian tables", "Student-t tables", "Gaussian, t and Laplacian"], [4.0])
    gaussian, student, made = (lost[change.title, 4.0] for change in losses.ablation.changes)
    assert gaussian == pytest.approx(0.104, abs=0.03)  # the difference of the entropies
    assert made - 0.001 < student < gaussian / 2
    assert -0.05 < made < 0.01  # the true tables are among these: what was learned can hardly be better
    # Of several degrees of freedom the best one counts, on each tensor.
    (tensor,) = losses.results.tensors
    (whole,) = tensor.points["whole"]
    needed = [rate_at(whole.mse, tensor.points[v.label]) for v in losses.ablation.changes[1].variants]
    assert len(needed) == len(FREEDOMS)
    assert student == pytest.approx(min(needed) - whole.bits)


def test_scales_and_steps_on_rows_of_two_sizes(codec: Codec, tmp_path: Path) -> None:
    scale = torch.ones(256, 1)
    scale[::2] = 4
    path = checkpoint(tmp_path, "model", w=samples("gaussian", 256, 384) * scale)
    lost, _ = measured(codec, path, ["no scale contexts", "row-normalised steps"])
    # Steps that follow the rows make the error that of each row's share: half the log of the ratio of the means.
    assert lost["row-normalised steps", 4.0] == pytest.approx(0.5 * math.log2(8.5 / 4), abs=0.03)
    # Tables for the mixture of both: less than a bit, which row it is, and more than nothing.
    assert 0.1 < lost["no scale contexts", 4.0] < 0.5


def test_transforms_and_bases_on_kernels(codec: Codec, tmp_path: Path) -> None:
    deviations = 2.0 ** np.arange(2, -2.5, -0.5)
    path = checkpoint(tmp_path, "model", w=kernels(codec, deviations, 64, 48))
    lost, _ = measured(codec, path, ["no bases", "no learned transforms", "neither"])
    taps = np.square(codec.transforms[0] / 2.0**14).T @ np.square(deviations)  # their variances
    gain = 0.5 * float(np.log2(taps).mean() - np.log2(np.square(deviations)).mean())
    assert gain > 0.3
    assert lost["neither bases nor transforms", 4.0] == pytest.approx(gain, abs=0.05)
    # Either finds the axes.
    assert abs(lost["no bases", 4.0]) < 0.01
    assert 0 <= lost["no learned transforms", 4.0] < 0.05


def test_the_loss_is_that_at_equal_error(codec: Codec, tmp_path: Path) -> None:
    weight = samples("student-t", 128, 256)
    path = checkpoint(tmp_path, "model", w=weight)
    lost, losses = measured(codec, path, ["scalar quantiser"], [3.0])
    (whole,) = losses.results.tensors[0].points["whole"]
    again = (
        losses.ablation.changes[0]
        .variants[0]
        .measure(weight, default_layout((128, 256)), whole.bits + lost["scalar quantiser", 3.0])
    )
    assert again is not None
    # The encoder may miss the rate by a little: what that does to the error is worth half the log of its change.
    missed = 0.5 * math.log2(again.mse / whole.mse)
    assert abs(missed) < 0.02
    # Side information of so small a matrix comes in steps: the loss is not quite the same at neighbouring rates.
    assert again.bits + missed - whole.bits == pytest.approx(lost["scalar quantiser", 3.0], abs=0.015)


def test_every_number_of_states_is_what_it_says(codec: Codec) -> None:
    found = {change.title: change.variants[0] for change in part_ablation(codec, "fast").changes}
    for states in (8, 16, 32, 64, 128, 256):
        coded = found[f"trellis of {states} states"].codec.encode(samples("gaussian", 64, 64), 3.0, preset="scalar")
        assert [s.header.n_states for s in matrix_streams(codec, coded)] == [states]
    assert "trellis of 4 states" not in found


def test_checkpoints_without_anything_to_measure(codec: Codec, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "model", constant=torch.ones(64, 64), bias=torch.zeros(64))
    with pytest.raises(UsageError, match="no tensor that is coded lossily"):
        measured(codec, path, ["no bases"])


def test_a_codec_is_trained_once_and_training_resumes(tmp_path: Path) -> None:
    sources = find_sources([str(checkpoint(tmp_path, "a", w=samples("gaussian", 64, 64)))])
    config = replace(QUICK, rounds=2)
    work = tmp_path / "work"
    work.mkdir()
    undisturbed = Workshop(None, silently).codec("a / b", sources, config)
    with pytest.raises(KeyboardInterrupt):
        Workshop(work, lambda total, what: nullcontext(Silent(4 + 16))).codec("a / b", sources, config)
    (state,) = work.iterdir()
    assert state.suffix == ".state"
    seen: list[tuple[int, str]] = []

    def show(total: int, what: str) -> AbstractContextManager[Progress]:
        seen.append((total, what))
        return nullcontext(Silent())

    resumed = Workshop(work, show).codec("a / b", sources, config)
    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert [path.suffix for path in work.iterdir()] == [".safetensors"]
    assert Workshop(work, show).codec("a / b", sources, config).to_bytes() == undisturbed.to_bytes()
    assert seen == [(36, "train a / b")]
    Workshop(work, show).codec("a / b", sources, replace(config, seed=1))
    assert len(seen) == len(list(work.iterdir())) == 2


def test_other_code_or_packages_train_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = find_sources([str(checkpoint(tmp_path, "a", w=samples("gaussian", 64, 64)))])
    work = tmp_path / "work"
    work.mkdir()
    workshop = Workshop(work, silently)
    first = workshop.codec("a", sources, QUICK)
    packages = trained.environment()["packages"]
    monkeypatch.setattr(trained, "environment", lambda: {"packages": {**packages, "torch": "0.0"}})
    assert workshop.codec("a", sources, QUICK).to_bytes() == first.to_bytes()
    monkeypatch.setattr(trained, "_CODE", "another")
    workshop.codec("a", sources, QUICK)
    assert len(list(work.glob("*.safetensors"))) == 3


def test_the_digest_of_the_code_is_that_of_what_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = shutil.copytree(
        Path(nwc_core.__file__).parent, tmp_path / "core", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
    )
    before = trained.code_digest()
    monkeypatch.setattr(nwc_core, "__file__", str(core / "__init__.py"))
    assert trained.code_digest() == before
    with (core / "codecs" / "README.md").open("a") as file:
        file.write("more")
    assert trained.code_digest() == before
    for name in ("training/loop.py", "training/density.py", "quantise.py", "decorrelate.py", "scales.py"):
        with (core / name).open("a") as file:
            file.write("# more\n")
        assert trained.code_digest() != before
        before = trained.code_digest()


@pytest.mark.parametrize("bits", [2.0, 5.0])
def test_the_step_for_a_rate_is_the_one_that_the_encoder_takes(codec: Codec, bits: float) -> None:
    weights = [samples("gaussian", 128, 256) * 0.01, samples("laplace", 128, 256, seed=1)]
    taken = []
    for weight in weights:
        (stream,) = matrix_streams(codec, codec.encode(weight, bits))
        taken.append(math.log2(float(stream.header.step) / float(weight.square().mean().sqrt())))
    mean, reach = steps_at(codec, [WeightMatrix("w", w.numpy(), 1) for w in weights], bits)
    assert mean == pytest.approx(np.mean(taken), abs=0.1)
    assert reach == 0.5
    far = [weights[0].numpy(), (weights[0] * torch.logspace(-3, 3, 128)[:, None]).numpy()]
    assert steps_at(codec, [WeightMatrix("w", w, 1) for w in far], bits)[1] > 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "CONFIG", QUICK)


def test_trained_variants_differ_in_what_they_say(quick: None, tmp_path: Path, codec: Codec) -> None:
    path = checkpoint(tmp_path, "a", w=samples("gaussian", 96, 64), c=kernels(codec, np.arange(1.0, 10), 16, 16))
    training = Training.start(Workshop(None, silently), find_sources([str(path)]), "fast")
    ablation = training.ablation(4.0)
    whole, (level, axes, noise) = ablation.whole, (change.variants[0] for change in ablation.changes)
    config = {v: v.codec.provenance["config"] for v in (whole, level, axes, noise)}
    assert config[whole] == training.codec.provenance["config"]
    changed = {v: {key for key in config[whole] if config[v][key] != config[whole][key]} for v in (level, axes, noise)}
    assert changed == {level: {"log2_alpha", "log2_steps"}, axes: {"joint"}, noise: {"rounds"}}
    mean, reach = steps_at(training.codec, training.dataset.train, 4.0)
    assert tuple(config[level]["log2_steps"]) == pytest.approx((mean - reach, mean + reach))
    alone = training.per_rate(4.0)
    assert alone.whole.codec.prior.halves.tobytes() == level.codec.prior.halves.tobytes()
    (one,) = alone.changes
    assert one.variants[0].codec.prior is training.codec.prior
    assert all(v.codec.coder.states == 4 for v in (whole, level, axes, noise, alone.whole, one.variants[0]))


def test_the_command(quick: None, nwc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "STATES", (1, 4))
    path = checkpoint(tmp_path, "a", w=samples("gaussian", 64, 64), v=samples("laplace", 40, 64), bias=torch.ones(64))
    out, work = tmp_path / "new" / "out", tmp_path / "work"
    options = ("--train", path, "--per-rate", "--bits", "4", "--bits", "3", "--preset", "fast", "--work", work)
    code, said, err = nwc("bench", "ablation", path, *options, "--out", out, "--output", "json")
    assert code == 0, err
    found = json.loads(said)
    assert found == json.loads((out / "ablation.json").read_text())
    assert {file.name for file in out.iterdir()} == {"ablation.json", "parts.png", "training.png", "per-rate.png"}
    assert found["rates"] == [3.0, 4.0]
    parts, trained_table = found["ablations"]
    assert [tensor["name"] for tensor in parts["tensors"]] == ["w", "v"]
    for table in (parts, trained_table):
        changes = list(dict.fromkeys(loss["change"] for loss in table["losses"]))
        assert [(loss["change"], loss["wanted"]) for loss in table["losses"]] == [
            (change, wanted) for change in changes for wanted in (3.0, 4.0, None)
        ]
        for loss in table["losses"]:
            assert loss["plain"]["mean"] == pytest.approx(np.mean(loss["lost"]))
            assert loss["weighted"]["mean"] == pytest.approx(np.average(loss["lost"], weights=[4096, 2560]))
    assert "importance at one level only, that of 4 bits" in {loss["change"] for loss in trained_table["losses"]}
    assert [[loss["wanted"] for loss in table["losses"]] for table in found["per_rate"]] == [[3.0, None], [4.0, None]]
    for rate, table in zip((3.0, 4.0), found["per_rate"], strict=True):
        alone, one = table["codecs"]
        assert alone["name"] == f"trained for {rate:g} bits"
        assert one["digest"] == trained_table["codecs"][0]["digest"]
    codecs = {file.name for file in work.iterdir()}
    # One codec, principal axes, noise only, and one for each rate, of which that for 4 bits serves twice.
    assert len(codecs) == 5

    code, said, err = nwc("bench", "ablation", path, *options)
    assert code == 0, err
    assert "train" not in err
    assert {file.name for file in work.iterdir()} == codecs
    for text in ("3 bits", "Student-t tables", "principal axes", "Lost by one codec", "2 tensors of a, 6,656 weights"):
        assert text in said


def test_wrong_usage(nwc: Run, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "a", w=samples("gaussian", 64, 64))
    torch.manual_seed(0)
    paper = tmp_path / "paper.safetensors"
    paper.write_bytes(Codec.of(export(Autoencoder(32, 1, 100.0)), {}).to_bytes())
    for arguments, said in (
        ((path, "--per-rate"), "--train"),
        ((path, "--codec", paper), "wanted nwc"),
        ((path, "--out", "/dev/null/x"), "--out"),
        ((path, "--work", "/dev/null/x"), "--work"),
        ((), "CHECKPOINTS"),
    ):
        code, out, err = nwc("bench", "ablation", *arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err


def test_the_provenance_of_what_was_trained_is_kept(codec: Codec) -> None:
    made = contender("whole", coder_of(codec, "default"), codec.provenance)
    assert made.codec.digest == codec.digest
