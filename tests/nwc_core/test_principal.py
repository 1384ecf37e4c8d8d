"""Principal axes in place of learned transforms, and training for one rate alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nwc_core.errors import UsageError
from nwc_core.training.config import TrainingConfig
from nwc_core.training.dataset import WeightMatrix, build_dataset
from nwc_core.training.loop import Trainer
from nwc_core.training.objective import STEP2
from nwc_core.training.principal import principal_axes
from nwc_core.transform import SCALE_BITS

QUICK = TrainingConfig(steps=4, rounds=1, fit_steps=8, shapes=2, weights=1024, held_out=0.0)


def correlated(axes: np.ndarray, deviations: np.ndarray, rows: int, scale: float, seed: int) -> WeightMatrix:
    """Kernels of 9 taps with given principal axes (rows) and deviations along them."""
    rng = np.random.default_rng(seed)
    kernels = (rng.standard_normal((rows * 8, 9)) * deviations) @ axes * scale
    return WeightMatrix("w", kernels.reshape(rows, 72).astype(np.float32), 9)


@pytest.fixture(scope="module")
def axes() -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))
    return np.asarray(q)


def test_principal_axes_are_found_whatever_the_scale_of_a_matrix(axes: np.ndarray) -> None:
    deviations = 2.0 ** np.arange(4, -5, -1)
    plain = WeightMatrix("other", np.ones((8, 8), np.float32), 1)  # no kernels: takes no part
    matrices = [correlated(axes, deviations, 200, 1000.0, 1), plain, correlated(axes, deviations, 200, 0.001, 2)]
    found = principal_axes(matrices, 9).double().numpy()
    assert np.abs(found @ found.T - np.eye(9)).max() < 1e-6
    assert np.abs(np.abs(found @ axes.T) - np.eye(9)).max() < 0.05
    # A matrix a million times larger counts no more than the other.
    twisted = axes[::-1]
    both = principal_axes([correlated(axes, deviations, 200, 1e3, 1), correlated(twisted, deviations, 200, 1e-3, 2)], 9)
    energy = np.square(both[:2].double().numpy() @ axes.T)
    assert energy[:, [0, 8]].sum() == pytest.approx(2, abs=0.05)


def test_without_joint_training_the_transform_stays_and_the_prior_learns(axes: np.ndarray) -> None:
    kernels = correlated(axes, 2.0 ** np.arange(4, -5, -1), 64, 1.0, 3).values.reshape(64, 8, 3, 3)
    dataset = build_dataset([("conv", torch.from_numpy(kernels))], 0.0, 0)
    codec = Trainer(dataset, TrainingConfig(**{**vars(QUICK), "joint": False}), []).run()
    wanted = np.rint(principal_axes(dataset.train, 9).double().numpy() * (1 << SCALE_BITS))
    assert np.array_equal(codec.transforms[0], wanted)
    assert codec.provenance["config"]["joint"] is False
    joint = Trainer(dataset, QUICK, []).run()
    assert not np.array_equal(joint.transforms[0], wanted)


def test_around_one_step() -> None:
    narrow = QUICK.around(-3.0, 0.5)
    for log2_alpha, log2_step in zip(narrow.log2_alpha, reversed(narrow.log2_steps), strict=True):
        # The step that the loss is least at.
        assert 0.5 * math.log2(STEP2 / 2.0**log2_alpha) == pytest.approx(log2_step)
    assert narrow.log2_steps == (-3.5, -2.5)
    assert (narrow.seed, narrow.steps) == (QUICK.seed, QUICK.steps)
    with pytest.raises(UsageError, match="the lower end first"):
        QUICK.around(-3.0, -0.5)


def test_phase_2_quantises_at_the_steps_asked_for() -> None:
    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
    dataset = build_dataset([("w", weight)], 0.0, 0)
    bits = []
    for log2_step in (-1.0, -4.0):
        codec = Trainer(dataset, QUICK.around(log2_step, 0.25), []).run()
        bits.append(codec.provenance["curve"][-1]["train_bits"])
    # Three octaves finer: three bits more.
    assert bits[1] - bits[0] == pytest.approx(3, abs=0.35)
