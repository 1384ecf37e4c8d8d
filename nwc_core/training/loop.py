"""Training a codec: transforms and prior together on the rate-distortion loss, then the prior on the real quantiser.

Phase 1 (`steps` batches): random matrices, random importance, uniform noise for quantisation; gradients reach both the
transforms and the prior network. Phase 2 (`rounds`): the tables so far quantise real weights at many rates; every
matrix takes the shape that codes it best, and the network is fitted to the counts; repeat.

Every random draw is a function of the seed and the step, so a resumed run gives the bytes of an undisturbed one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nwc_core import transform
from nwc_core.codec import Codec
from nwc_core.decorrelate import Parts, decorrelate
from nwc_core.prior import RATE_SPAN, Prior
from nwc_core.scales import Spread
from nwc_core.training.checkpoint import damaged, load_state, save_state
from nwc_core.training.config import TrainingConfig
from nwc_core.training.counts import count_points
from nwc_core.training.dataset import WeightDataset, WeightMatrix, is_heavy_tailed, with_heavy_tails
from nwc_core.training.density import PriorNetwork, code_length, level_log2_s
from nwc_core.training.objective import OrthonormalTransform, rate_distortion
from nwc_core.training.principal import FixedTransform, principal_axes
from nwc_core.training.schedule import cosine

__all__ = ["Progress", "Trainer", "TrainingConfig"]

_LOG_EVERY = 50
_REASSIGNMENTS = 8  # times in a round that every matrix chooses its shape anew
_CURVE_POINTS = 20  # of phase 1 in the provenance
_TYPICAL_BITS = 4.0  # at which phase 2 chooses transforms and bases
_STEPS = 15  # at which phase 2 quantises a matrix
_REACH = 600  # of the exported probabilities, in points: past the widest table
_RATE_WEIGHT = 1.0  # lambda; only alpha / lambda matters, and alpha is drawn over its whole range


@dataclass
class _State:
    """What a checkpoint holds besides the weights of the networks."""

    step: int = 0
    round: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    shape_of: list[int] = field(default_factory=list)


Progress = Callable[[int, int, str], None]


class Trainer:
    """Trains one codec. `run` may be called again after an interruption with the same arguments: it resumes."""

    def __init__(
        self,
        dataset: WeightDataset,
        config: TrainingConfig,
        sources: list[dict[str, str]],
        checkpoint: Path | None = None,
        progress: Progress = lambda done, total, what: None,
    ) -> None:
        """
        Args:
            dataset: training and held-out matrices.
            config: see TrainingConfig.
            sources: names and digests of the checkpoints, for the provenance.
            checkpoint: file to save to and resume from.
            progress: called as (done, total, what is being done).

        Raises:
            UsageError: the checkpoint belongs to other sources or another configuration.
        """
        self.dataset, self.config, self.sources = (
            with_heavy_tails(dataset, config.heavy_tails, config.seed),
            config,
            sources,
        )
        self.checkpoint, self.progress = checkpoint, progress
        torch.manual_seed(config.seed)
        self.network = PriorNetwork(config.shapes)
        self.transforms: list[OrthonormalTransform | FixedTransform] = [
            OrthonormalTransform(g, config.seed + i)
            if config.joint
            else FixedTransform(principal_axes(dataset.train, g))
            for i, g in enumerate(config.transforms)
        ]
        parameters = [*self.network.parameters(), *(p for t in self.transforms for p in t.parameters())]
        self.optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
        self.state = _State(shape_of=_by_tails(self.dataset.train, config.shapes))
        self._identity = json.dumps({"config": asdict(config), "sources": sources}, sort_keys=True)
        if checkpoint and checkpoint.exists():
            self._load(checkpoint)

    def run(self) -> Codec:
        """Train to the end and return the codec."""
        total = self.config.total_steps
        while self.state.step < self.config.steps:
            self._joint_step()
            if self.state.step % _LOG_EVERY == 0 or self.state.step == self.config.steps:
                self._save()
                self.progress(self.state.step, total, f"joint, loss {self.state.curve[-1]['loss']:.3f}")
        while self.state.round < self.config.rounds:
            self._fit_round()
            self._save()
            done = self.config.steps + self.state.round * self.config.fit_steps
            self.progress(done, total, f"fit, {self.state.curve[-1]['train_bits']:.4f} bits per weight")
        return self._codec()

    def _joint_step(self) -> None:
        config, state = self.config, self.state
        rng = np.random.default_rng([config.seed, state.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * cosine(state.step / config.steps)
        train = self.dataset.train
        sizes = np.sqrt([matrix.values.size for matrix in train])
        losses = []
        for index in rng.choice(len(train), config.batch, p=sizes / sizes.sum()):
            matrix = train[index]
            values = matrix.sample(config.weights, rng)
            weight = torch.from_numpy(values / np.sqrt(np.square(values).mean() + 1e-30))
            log2_alpha = rng.uniform(*config.log2_alpha)
            fitting = [t for t in self.transforms if t.size == matrix.taps]
            chunk = matrix.taps if fitting else _chunk(weight.shape[1])
            jitter = config.chunk_spread * rng.standard_normal((weight.shape[0], weight.shape[1] // chunk))
            importance = torch.from_numpy(np.exp2(log2_alpha + jitter).astype(np.float32))
            shape = torch.tensor(state.shape_of[index])
            options = [
                rate_distortion(self.network, basis, weight, importance, shape, _RATE_WEIGHT, generator)
                for basis in ([learned() for learned in fitting] or [None])
            ]
            # Each matrix trains the transform that serves it best, as the encoder will choose.
            losses.append(min(options, key=lambda loss: float(loss.total.detach())))
        total = torch.stack([loss.total for loss in losses]).mean()
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        state.step += 1
        if state.step % _LOG_EVERY == 0 or state.step == config.steps:
            state.curve.append(
                {
                    "step": state.step,
                    "loss": round(float(total.detach()), 4),
                    "bits": round(float(np.mean([loss.bits for loss in losses])), 4),
                    "distortion": round(float(np.mean([loss.distortion for loss in losses])), 5),
                }
            )

    def _fit_round(self) -> None:
        config, state = self.config, self.state
        prior = Prior.from_pmf(self.network.pmf(_REACH))
        counts = [
            self._count(matrix, prior, shape, index)
            for index, (matrix, shape) in enumerate(zip(self.dataset.train, state.shape_of, strict=True))
        ]
        stacked = torch.from_numpy(np.stack(counts)).reshape(len(counts), -1)
        points = _Points(stacked.sum(0) > 0)
        stacked = stacked[:, points.seen]
        optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        for step in range(config.fit_steps):
            if step % max(1, config.fit_steps // _REASSIGNMENTS) == 0:
                # The first fit starts with the shapes kept apart by tails: from like tables most would never be chosen.
                if state.round or step >= config.fit_steps // 4:
                    with torch.no_grad():
                        state.shape_of = (stacked @ points.bits(self.network).T).argmin(1).tolist()
                sums = torch.zeros(config.shapes, stacked.shape[1])
                sums.index_add_(0, torch.tensor(state.shape_of), stacked)
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * cosine(step / config.fit_steps)
            loss = (sums * points.bits(self.network)).sum() / sums.sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        state.round += 1
        fitted = {"round": state.round, "train_bits": round(float(loss.detach()), 5)}
        if self.dataset.held_out:
            fitted["held_out_bits"] = round(self._held_out_bits(), 5)
        state.curve.append(fitted)

    def _count(self, matrix: WeightMatrix, prior: Prior, shape: int, index: int) -> npt.NDArray[np.float32]:
        config = self.config
        rng = np.random.default_rng([config.seed, 1, self.state.round, index])
        coefficients = decorrelate(matrix.values, _TYPICAL_BITS, matrix.taps, prior, self._integers(), Parts())
        finest, coarsest = config.log2_steps
        half = (coarsest - finest) / (_STEPS - 1) / 2
        log2_steps = np.linspace(coarsest, finest, _STEPS) + rng.uniform(-half, half)  # with a random phase
        return count_points(coefficients, log2_steps, prior, shape, config.n_states, config.weights, rng)

    @torch.no_grad()
    def _held_out_bits(self) -> float:
        """Mean code length of held-out matrices, each under its best shape."""
        matrices = self.dataset.held_out
        prior = Prior.from_pmf(self.network.pmf(_REACH))
        counts = np.stack([self._count(matrix, prior, 0, 10**6 + i) for i, matrix in enumerate(matrices)])
        flat = torch.from_numpy(counts).reshape(len(counts), -1)
        points = _Points(flat.sum(0) > 0)
        return float((flat[:, points.seen] @ points.bits(self.network).T).min(1).values.sum() / flat.sum())

    def _integers(self) -> list[npt.NDArray[np.int16]]:
        """The transforms as the codec file holds them."""
        with torch.no_grad():
            return [
                np.rint(t().double().numpy() * (1 << transform.SCALE_BITS)).astype(np.int16) for t in self.transforms
            ]

    def _codec(self) -> Codec:
        joint = len(self.state.curve) - self.config.rounds
        thinned = max(1, joint // _CURVE_POINTS)
        provenance: dict[str, Any] = {
            "architecture": "nwc",
            "config": asdict(self.config),
            "sources": self.sources,
            "tensors": {
                "train": sum(not is_heavy_tailed(matrix) for matrix in self.dataset.train),
                "held_out": len(self.dataset.held_out),
                "heavy_tailed": sum(is_heavy_tailed(matrix) for matrix in self.dataset.train),
            },
            "curve": self.state.curve[:joint:thinned] + self.state.curve[joint:],
        }
        return Codec(Prior.from_pmf(self.network.pmf(_REACH)), self._integers(), provenance)

    def _save(self) -> None:
        if self.checkpoint:
            state = {
                "network": self.network.state_dict(),
                "transforms": [t.state_dict() for t in self.transforms],
                "optimiser": self.optimiser.state_dict(),
                "state": asdict(self.state),
            }
            save_state(self.checkpoint, self._identity, state)

    def _load(self, path: Path) -> None:
        saved = load_state(path, self._identity)
        try:
            self.network.load_state_dict(saved["network"])
            for module, state in zip(self.transforms, saved["transforms"], strict=True):
                module.load_state_dict(state)
            self.optimiser.load_state_dict(saved["optimiser"])
            self.state = _State(**saved["state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(path, error) from None


class _Points:
    """The (level, |n|) that occur at all, a fifth of those that could: code lengths are computed for these only."""

    def __init__(self, seen: torch.Tensor) -> None:
        """seen: [TABLE_LEVELS * RATE_SPAN] bool."""
        self.seen = seen
        flat = torch.nonzero(seen)[:, 0]
        self._n = (flat % RATE_SPAN).float()
        self._level = flat // RATE_SPAN

    def bits(self, network: PriorNetwork) -> torch.Tensor:
        """[shapes, points] code lengths."""
        shapes = torch.arange(network.embedding.num_embeddings)
        # The network runs once for each level, not for each point.
        weights, scales = network.mixture(level_log2_s()[None, :], shapes[:, None])
        return code_length(self._n, weights[:, self._level], scales[:, self._level])


def _by_tails(matrices: list[WeightMatrix], shapes: int) -> list[int]:
    """A first shape for every matrix: rank of its kurtosis once rows and columns are normalised, cut into equal parts."""
    kurtosis = []
    for matrix in matrices:
        spread = Spread.measure(matrix.values)
        z = matrix.values / np.exp2((spread.rows[:, None] + spread.columns[None, :]) / 8)
        kurtosis.append(float(np.mean(z**4) / np.mean(z**2) ** 2))
    rank = np.argsort(np.argsort(kurtosis))
    return [int(r) * shapes // len(matrices) for r in rank]


def _chunk(columns: int) -> int:
    """Size of an importance chunk where no kernel gives one: the largest divisor of the row up to 16."""
    return next(size for size in range(min(16, columns), 0, -1) if columns % size == 0)
