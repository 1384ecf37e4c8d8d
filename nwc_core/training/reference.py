"""Training the published codec: one network for four quality levels, Adam on random chunks.

Follows the published recipe except for its length: every batch gives a quarter of its chunks to each quality level, the
learning rate rises over the first steps and then falls to zero as a cosine, and training starts from a scalar quantiser
(see `nwc_core.training.autoencoder`), so that thousands of steps do what took 200,000.

Every random draw is a function of the seed and the step, so a resumed run gives the bytes of an undisturbed one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nwc_core.codec import Codec
from nwc_core.codec_file import PAPER
from nwc_core.errors import UsageError
from nwc_core.reference.chunks import row_scales, to_chunks
from nwc_core.reference.network import MAX_BLOCK_WEIGHTS, MAX_DEPTH, MAX_WIDTH, WIDTH_STEP
from nwc_core.reference.recipe import CHUNK, QUALITIES
from nwc_core.training.autoencoder import Autoencoder
from nwc_core.training.checkpoint import damaged, load_state, save_state
from nwc_core.training.dataset import WeightDataset, WeightMatrix
from nwc_core.training.export import export, held_out_levels
from nwc_core.training.schedule import cosine

_LOG_EVERY = 50
_CURVE_POINTS = 20  # in the provenance
_DENSITY_RATE = 5  # densities have few parameters and learn at this multiple of the learning rate
_RANGES = {
    "seed": "0 or more",
    "width": f"a multiple of {WIDTH_STEP} from {2 * CHUNK} to {MAX_WIDTH}",
    "depth": f"1 to {MAX_DEPTH}, and depth * width^2 at most {MAX_BLOCK_WEIGHTS}",
    "steps": "1 or more",
    "batch": f"a multiple of {QUALITIES}",
    "learning_rate": "more than 0, and finite",
    "warmup": "1 or more",
    "distortion_weight": "1 to 100000",
    "held_out": "a share from 0 to less than 1",
}


@dataclass(frozen=True)
class ReferenceConfig:
    """What determines a reference codec besides its data.

    Attributes:
        seed: of every random draw.
        width: features of a layer.
        depth: residual blocks in analysis and in synthesis.
        steps: batches.
        batch: chunks in a batch.
        learning_rate: of Adam, at its highest.
        warmup: steps over which it rises; 1 is none.
        distortion_weight: lambda, one of the published ones: the four levels come to lie between 2.9 and 5.9 bits.
        held_out: share of tensors never trained on.
    """

    seed: int = 0
    width: int = 512
    depth: int = 4
    steps: int = 4000
    batch: int = 2048
    learning_rate: float = 1e-3
    warmup: int = 100
    distortion_weight: float = 100.0
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Raises UsageError, naming the field, for what could not be trained."""
        wanted = {
            "seed": self.seed >= 0,
            "width": 2 * CHUNK <= self.width <= MAX_WIDTH and self.width % WIDTH_STEP == 0,
            "depth": 1 <= self.depth <= MAX_DEPTH and self.depth * self.width**2 <= MAX_BLOCK_WEIGHTS,
            "steps": self.steps >= 1,
            "batch": self.batch >= 1 and self.batch % QUALITIES == 0,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "warmup": self.warmup >= 1,
            "distortion_weight": 1 <= self.distortion_weight <= 1e5,
            "held_out": 0 <= self.held_out < 1,
        }
        for name, fine in wanted.items():
            if not fine:
                raise UsageError(f"{name}: found {getattr(self, name)}; wanted {_RANGES[name]}")

    @property
    def total_steps(self) -> int:
        """Updates, the unit of progress."""
        return self.steps


Progress = Callable[[int, int, str], None]


class ReferenceTrainer:
    """Trains one reference codec. After an interruption, `run` with the same arguments resumes."""

    def __init__(
        self,
        dataset: WeightDataset,
        config: ReferenceConfig,
        sources: list[dict[str, str]],
        checkpoint: Path | None = None,
        progress: Progress = lambda done, total, what: None,
    ) -> None:
        """Arguments and errors as of `nwc_core.training.loop.Trainer`."""
        self.dataset, self.config, self.sources = dataset, config, sources
        self.checkpoint, self.progress = checkpoint, progress
        torch.manual_seed(config.seed)
        self.model = Autoencoder(config.width, config.depth, config.distortion_weight)
        density = list(self.model.density.parameters())
        others = [p for name, p in self.model.named_parameters() if not name.startswith("density.")]
        self.optimiser = torch.optim.Adam([{"params": others, "share": 1}, {"params": density, "share": _DENSITY_RATE}])
        self.step = 0
        self.curve: list[dict[str, Any]] = []
        self._identity = json.dumps(
            {"architecture": PAPER, "config": asdict(config), "sources": sources}, sort_keys=True
        )
        if checkpoint and checkpoint.exists():
            self._load(checkpoint)

    def run(self) -> Codec:
        """Train to the end and return the codec."""
        self._train()
        coder = export(self.model)
        thinned = max(1, len(self.curve) // _CURVE_POINTS)
        curve = self.curve[::-thinned][::-1]  # the last entry is among them
        if self.dataset.held_out:
            curve.append({"levels": held_out_levels(coder, self.dataset.held_out)})
        provenance: dict[str, Any] = {
            "architecture": PAPER,
            "config": asdict(self.config),
            "sources": self.sources,
            "tensors": {"train": len(self.dataset.train), "held_out": len(self.dataset.held_out)},
            "curve": curve,
        }
        return Codec.of(coder, provenance)

    def _train(self) -> None:
        if self.step == self.config.steps:
            return
        chunks = np.concatenate([_chunks(matrix) for matrix in self.dataset.train])
        while self.step < self.config.steps:
            self._update(chunks)
            if self.step % _LOG_EVERY == 0 or self.step == self.config.steps:
                self._save()
                self.progress(self.step, self.config.steps, f"loss {self.curve[-1]['loss']:.3f}")

    def _update(self, chunks: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rate = config.learning_rate * min(1, (self.step + 1) / config.warmup) * cosine(self.step / config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        batch = torch.from_numpy(chunks[rng.integers(0, len(chunks), config.batch)])
        distortion, bits = self.model(batch.reshape(QUALITIES, -1, CHUNK), generator)
        loss = self.model.loss(distortion, bits)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        if self.step % _LOG_EVERY == 0 or self.step == config.steps:
            self.curve.append(
                {
                    "step": self.step,
                    "loss": round(float(loss.detach()), 4),
                    "bits": [round(value, 4) for value in bits.tolist()],
                    "distortion": [round(value, 6) for value in distortion.tolist()],
                }
            )

    def _save(self) -> None:
        if self.checkpoint:
            state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
            save_state(self.checkpoint, self._identity, {**state, "step": self.step, "curve": self.curve})

    def _load(self, path: Path) -> None:
        saved = load_state(path, self._identity)
        try:
            self.model.load_state_dict(saved["model"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.curve = int(saved["step"]), list(saved["curve"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(path, error) from None


def _chunks(matrix: WeightMatrix) -> np.ndarray[Any, np.dtype[np.float32]]:
    return to_chunks(matrix.values, *row_scales(matrix.values))
