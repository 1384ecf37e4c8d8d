"""What determines a trained codec besides its data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nwc_core.errors import UsageError
from nwc_core.training.objective import STEP2

_MAX_SHAPES, _MAX_TRANSFORM = 16, 64  # what a codec file of 128 KB holds
_RANGES = {
    "seed": "0 or more",
    "shapes": f"1 to {_MAX_SHAPES}",
    "transforms": f"sizes from 2 to {_MAX_TRANSFORM}",
    "steps": "1 or more",
    "batch": "1 or more",
    "weights": "1 or more",
    "learning_rate": "more than 0, and finite",
    "rounds": "0 or more",
    "log2_alpha": "the lower end first",
    "log2_steps": "the lower end first",
    "fit_steps": "1 or more",
    "held_out": "a share from 0 to less than 1",
    "heavy_tails": "0 or more",
}


@dataclass(frozen=True)
class TrainingConfig:
    """What determines a codec besides its data.

    Attributes:
        seed: of every random draw.
        shapes: table shapes of the prior.
        transforms: sizes g of the transforms to learn; a size may come more than once.
        steps: batches of phase 1.
        batch: matrices in a batch.
        weights: weights sampled from a matrix, in both phases.
        learning_rate: of Adam.
        log2_alpha: range of log2 importance over lambda, drawn uniformly for every matrix.
        log2_steps: range of phase 2's steps, as log2 of step over root mean square weight; twice to 1/64 of it give about
            0.5 to 7 bits.
        chunk_spread: standard deviation, in octaves, of the importance of single chunks around their matrix's.
        rounds: of phase 2.
        fit_steps: network updates in a round.
        held_out: share of tensors never trained on.
        heavy_tails: samples of each of three heavy-tailed distributions that are trained on besides.
        n_states: trellis that phase 2 quantises with.
        joint: transforms are learned together with the prior; otherwise they are the principal axes of the taps, and only
            the prior is learned.
    """

    seed: int = 0
    shapes: int = 10
    transforms: tuple[int, ...] = (9,)
    steps: int = 2000
    batch: int = 8
    weights: int = 8192
    learning_rate: float = 3e-3
    log2_alpha: tuple[float, float] = (0.0, 14.0)
    log2_steps: tuple[float, float] = (-6.0, 1.0)
    chunk_spread: float = 1.0
    rounds: int = 3
    fit_steps: int = 800
    held_out: float = 0.1
    heavy_tails: int = 6
    n_states: int = 8
    joint: bool = True

    def __post_init__(self) -> None:
        """Raises UsageError, naming the field, for what could not be trained or not be written in the end."""
        wanted = {
            "seed": self.seed >= 0,
            "shapes": 1 <= self.shapes <= _MAX_SHAPES,
            "transforms": all(2 <= size <= _MAX_TRANSFORM for size in self.transforms),
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "weights": self.weights >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "rounds": self.rounds >= 0,
            "log2_alpha": self.log2_alpha[0] <= self.log2_alpha[1],
            "log2_steps": self.log2_steps[0] <= self.log2_steps[1],
            "fit_steps": self.fit_steps >= 1,
            "held_out": 0 <= self.held_out < 1,
            "heavy_tails": self.heavy_tails >= 0,
        }
        for name, fine in wanted.items():
            if not fine:
                raise UsageError(f"{name}: found {getattr(self, name)}; wanted {_RANGES[name]}")

    @property
    def total_steps(self) -> int:
        """Updates in both phases together, the unit of progress."""
        return self.steps + self.rounds * self.fit_steps

    def around(self, log2_step: float, reach: float) -> TrainingConfig:
        """The same for one rate alone: in both phases, only steps within `reach` octaves of one step.

        Args:
            log2_step: log2 of step over root mean square weight.
            reach: octaves, either way.
        """
        # The step follows the importance, see `nwc_core.training.objective`.
        log2_alpha = math.log2(STEP2) - 2 * log2_step
        return replace(
            self,
            log2_alpha=(log2_alpha - 2 * reach, log2_alpha + 2 * reach),
            log2_steps=(log2_step - reach, log2_step + reach),
        )
