"""Training the reference codec: what it learns, and that an interrupted run ends the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_samples import CONFIG, SOURCES, dataset, one_thread, trained

from nwc_core.errors import FormatError, UsageError
from nwc_core.reference.recipe import CHUNK, QUALITIES, RATE_WEIGHTS
from nwc_core.training.autoencoder import Autoencoder
from nwc_core.training.bottleneck import Bottleneck
from nwc_core.training.reference import ReferenceConfig, ReferenceTrainer


@pytest.fixture(scope="module", autouse=True)
def on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


def test_it_starts_as_a_scalar_quantiser_of_the_best_step() -> None:
    torch.manual_seed(0)
    model = Autoencoder(64, 4, 100.0)
    chunks = torch.randn(QUALITIES, 500, CHUNK)
    with torch.no_grad():
        distortion, _ = model(chunks, torch.Generator().manual_seed(0))
    best = torch.tensor(RATE_WEIGHTS) / (2 * math.log(2) * 100.0)
    assert (distortion / best < 2).all()
    assert (distortion / best > 0.9).all()


def test_the_loss_falls_and_held_out_tensors_are_coded_well() -> None:
    codec = trained()[1]
    curve = codec.provenance["curve"]
    losses = [entry["loss"] for entry in curve if "loss" in entry]
    assert losses[-1] < losses[0] - 0.05
    levels = curve[-1]["levels"]
    assert [level["quality"] for level in levels] == list(range(QUALITIES))
    assert all(0.24 < level["gap"] < 0.42 for level in levels)
    assert [level["bits"] for level in levels] == sorted(level["bits"] for level in levels)


def test_densities_are_densities() -> None:
    torch.manual_seed(0)
    bottleneck = Bottleneck(torch.tensor([1.0, 4.0, 16.0]))
    centre = bottleneck.medians()
    logits = bottleneck.logits(torch.from_numpy(centre)[:, None].float())
    assert logits.detach().numpy() == pytest.approx(0, abs=1e-3)
    for gain in (0.25, 1.0, 2.0):
        p = bottleneck.pmf(centre, gain, 2000)
        assert (p >= 0).all()
        assert p.sum(1) == pytest.approx(1, abs=1e-3)
    k = torch.arange(-30, 31).float().repeat(3, 1) + torch.from_numpy(centre)[:, None].float()
    wanted = -np.log2(bottleneck.pmf(centre, 1.0, 30) + 1e-9)
    assert bottleneck.bits(k).detach().numpy() == pytest.approx(wanted, rel=1e-2)


class Interrupted(Exception):  # noqa: N818
    pass


def test_interrupted_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    work, config = tmp_path / "state", replace(CONFIG, steps=70)

    def stop(done: int, total: int, what: str) -> None:
        raise Interrupted

    for _ in range(2):  # after step 50, then after the last one
        with pytest.raises(Interrupted):
            ReferenceTrainer(dataset(), config, SOURCES, work, stop).run()
    resumed = ReferenceTrainer(dataset(), config, SOURCES, work).run()
    assert resumed.to_bytes() == ReferenceTrainer(dataset(), config, SOURCES).run().to_bytes()


def test_work_of_another_run_is_refused(tmp_path: Path) -> None:
    work = tmp_path / "state"
    short = replace(CONFIG, steps=1)
    ReferenceTrainer(dataset(), short, [], work).run()
    with pytest.raises(UsageError, match="another training run"):
        ReferenceTrainer(dataset(), replace(short, steps=2), [], work)
    state = torch.load(work, weights_only=True)
    torch.save({**state, "model": {}}, work)
    with pytest.raises(FormatError, match="a damaged state"):
        ReferenceTrainer(dataset(), short, [], work)


BAD = {
    "width": (24, 40, 2048),
    "depth": (0, 5),
    "batch": (6,),
    "steps": (0,),
    "held_out": (1.0,),
    "warmup": (0, -1),
    "learning_rate": (0.0, -1e-3, math.nan, math.inf),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_configurations_that_make_no_sense(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{field}: found {value}; wanted"):
        ReferenceConfig(**{field: value})  # type: ignore[arg-type]
