"""Training on small synthetic weights: it learns what is there to learn, and an interrupted run ends the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nwc_core.codec import MAX_CODEC_BYTES, Codec
from nwc_core.decorrelate import Parts
from nwc_core.errors import UsageError
from nwc_core.nwc_coder import NwcCoder
from nwc_core.prior import LEVEL_ZERO, OCTAVE, TABLE_LEVELS, Prior
from nwc_core.training.dataset import WeightDataset, build_dataset
from nwc_core.training.density import PriorNetwork
from nwc_core.training.loop import Trainer, TrainingConfig

CONFIG = TrainingConfig(
    shapes=2, steps=100, batch=3, weights=4096, rounds=1, fit_steps=80, held_out=0.2, transforms=(9,)
)


pytestmark = pytest.mark.usefixtures("one_thread")


def smooth_kernels(count: int, seed: int) -> torch.Tensor:
    """[count, 16, 3, 3] kernels whose neighbouring taps are alike, as trained ones are."""
    rng = np.random.default_rng(seed)
    x = np.arange(3)
    distance = np.abs(x[:, None] - x[None, :])
    one = np.linalg.cholesky(0.8**distance)
    noise = rng.standard_normal((count, 16, 3, 3))
    return torch.from_numpy((one @ noise @ one.T).astype(np.float32))


def tensors() -> list[tuple[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    linear = [(f"m/linear.{i}", torch.from_numpy(rng.laplace(size=(64, 96)).astype(np.float32))) for i in range(6)]
    conv = [(f"m/conv.{i}", smooth_kernels(48, i)) for i in range(4)]
    return [*linear, *conv, ("m/bias", torch.ones(64)), ("m/ids", torch.arange(4096).reshape(64, 64))]


@pytest.fixture(scope="module")
def dataset() -> WeightDataset:
    return build_dataset(tensors(), CONFIG.held_out, CONFIG.seed)


@pytest.fixture(scope="module")
def codec(dataset: WeightDataset) -> Codec:
    return Trainer(dataset, CONFIG, [{"name": "m", "sha256": "0" * 64}]).run()


def test_dataset_takes_matrices_and_splits_by_tensor(dataset: WeightDataset) -> None:
    names = [matrix.name for matrix in dataset.train + dataset.held_out]
    assert sorted(names) == sorted([f"m/linear.{i}" for i in range(6)] + [f"m/conv.{i}" for i in range(4)])
    assert dataset.held_out
    assert {matrix.taps for matrix in dataset.train} == {1, 9}


def test_adding_a_source_moves_no_tensor(dataset: WeightDataset) -> None:
    more = build_dataset([*tensors(), ("n/linear", torch.randn(64, 64))], CONFIG.held_out, CONFIG.seed)
    assert {m.name for m in dataset.held_out} == {m.name for m in more.held_out} - {"n/linear"}


def test_dataset_refuses_to_be_empty() -> None:
    with pytest.raises(UsageError, match="no weights to train on"):
        build_dataset([("m/bias", torch.ones(64))], 0.1, 0)


def test_codec_is_small_and_comes_back(codec: Codec) -> None:
    data = codec.to_bytes()
    assert len(data) <= MAX_CODEC_BYTES
    again = Codec.from_bytes(data)
    assert Codec.of(again.coder, again.provenance).to_bytes() == data
    assert again.provenance["sources"] == [{"name": "m", "sha256": "0" * 64}]
    assert again.provenance["config"]["steps"] == CONFIG.steps


def test_learned_transform_pays_on_kernels_it_never_saw(codec: Codec) -> None:
    weight = smooth_kernels(64, 99)
    variance = float(weight.var())
    learned, plain = (
        Codec.of(NwcCoder(codec.prior, codec.transforms, Parts(bases=False, transforms=tried)), {})
        for tried in (True, False)
    )
    gaps = []
    for candidate in (learned, plain):
        encoded = candidate.encode(weight, 4.0)
        error = float((candidate.decode(encoded) - weight).square().mean())
        gaps.append(encoded.bits_per_weight + 0.5 * np.log2(error / variance))
    assert gaps[0] < gaps[1] - 0.1  # bits per weight at equal error


def test_prior_learns_the_tails(codec: Codec) -> None:
    """On Laplacian weights the learned tables beat Gaussian ones."""
    weight = torch.from_numpy(np.random.default_rng(5).laplace(size=(256, 256)).astype(np.float32))
    n = np.arange(-600, 601)
    gauss = []
    for level in range(TABLE_LEVELS):
        p = np.exp(-0.5 * (n / 2 ** ((level - LEVEL_ZERO) / OCTAVE)) ** 2) + 1e-300
        p[::2] /= p[::2].sum()
        p[1::2] /= p[1::2].sum()
        gauss.append(p)
    errors = []
    for candidate in (codec, Codec(Prior.from_pmf([gauss]), [], {})):
        encoded = candidate.encode(weight, 4.0)
        assert encoded.mse is not None
        errors.append(encoded.bits_per_weight + 0.5 * np.log2(encoded.mse))
    assert errors[0] < errors[1] - 0.02


def test_network_gives_probabilities() -> None:
    torch.manual_seed(0)
    network = PriorNetwork(2)
    n = torch.arange(-601, 602, dtype=torch.float32)
    for parity in (0, 1):
        points = n[n.remainder(2) == parity]
        for log2_s in (-3.0, 0.0, 3.0, 5.5):
            mass = torch.exp2(-network.bits(points, torch.tensor(log2_s), torch.tensor(1))).sum()
            assert float(mass.detach()) == pytest.approx(1.0, abs=1e-4)


class Interrupted(Exception):  # noqa: N818
    pass


def test_interrupted_training_resumes_to_the_same_bytes(dataset: WeightDataset, codec: Codec, tmp_path: Path) -> None:
    sources = [{"name": "m", "sha256": "0" * 64}]
    work = tmp_path / "state"

    def stop_at(limit: int) -> None:
        def progress(done: int, total: int, what: str) -> None:
            if done == limit:
                raise Interrupted

        Trainer(dataset, CONFIG, sources, work, progress).run()

    for limit in (50, CONFIG.total_steps):
        with pytest.raises(Interrupted):
            stop_at(limit)
        assert work.exists()
    assert Trainer(dataset, CONFIG, sources, work).run().to_bytes() == codec.to_bytes()


def test_work_of_another_run_is_refused(dataset: WeightDataset, tmp_path: Path) -> None:
    work = tmp_path / "state"
    short = TrainingConfig(shapes=1, steps=2, batch=1, weights=512, rounds=0, transforms=())
    Trainer(dataset, short, [], work).run()
    with pytest.raises(UsageError, match="another training run"):
        Trainer(dataset, TrainingConfig(shapes=1, steps=3, batch=1, weights=512, rounds=0, transforms=()), [], work)
