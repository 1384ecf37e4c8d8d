"""Codecs trained in other ways from the same sources, to find out what each part of the training earns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from nwc_core.codec import PRESETS, Codec
from nwc_core.quantise import Unsuitable, encode_matrix
from nwc_core.training.config import TrainingConfig
from nwc_core.training.dataset import WeightDataset, WeightMatrix
from nwc_workflows.bench import trained
from nwc_workflows.bench.contenders import CodecContender
from nwc_workflows.bench.trained import Workshop
from nwc_workflows.bench.variants import Ablation, Change, coder_of, contender
from nwc_workflows.train import TrainingSource, load_dataset

ONE_CODEC = "one codec"
_LEAST_REACH = 0.5  # octaves of steps either way, where tensors hardly differ
_SAMPLE = 1 << 16  # weights of a matrix that tell its step


@dataclass(frozen=True)
class Training:
    """A codec trained as `nwc train` does by default, and what else can be trained from the same sources.

    Attributes:
        workshop: trains.
        sources: to learn from.
        dataset: their matrices.
        codec: the codec that others are compared with.
        preset: that all are measured at.
    """

    workshop: Workshop
    sources: Sequence[TrainingSource]
    dataset: WeightDataset
    codec: Codec
    preset: str

    @classmethod
    def start(cls, workshop: Workshop, sources: Sequence[TrainingSource], preset: str) -> Training:
        """Train the codec that others are compared with."""
        config = trained.CONFIG
        dataset = load_dataset(list(sources), config.held_out, config.seed)
        return cls(workshop, sources, dataset, workshop.codec(ONE_CODEC, sources, config), preset)

    def ablation(self, middle: float) -> Ablation:
        """One part of the training changed at a time; the one level of importance is the one that gives `middle` bits."""
        config = trained.CONFIG
        changed = {
            f"importance at one level only, that of {middle:g} bits": self.for_rate(middle),
            "transforms not trained: principal axes": self._train("principal axes", replace(config, joint=False)),
            "prior never fitted to the quantiser": self._train("noise only", replace(config, rounds=0)),
        }
        changes = [Change(title, [self._contender(title, codec)]) for title, codec in changed.items()]
        whole = self._contender(ONE_CODEC, self.codec)
        return Ablation("One part of the training changed at a time, codecs from the same sources", whole, changes)

    def per_rate(self, bits: float) -> Ablation:
        """A codec for one rate alone; the one codec is what changed."""
        alone = self._contender(f"trained for {bits:g} bits", self.for_rate(bits))
        one = Change(ONE_CODEC, [self._contender(ONE_CODEC, self.codec)])
        return Ablation(f"One codec instead of one for {bits:g} bits alone", alone, [one])

    def for_rate(self, bits: float) -> Codec:
        """A codec trained only around the importance that gives `bits` per weight."""
        log2_step, reach = steps_at(self.codec, self.dataset.train, bits)
        return self._train(f"{bits:g} bits", trained.CONFIG.around(log2_step, reach))

    def _contender(self, name: str, codec: Codec) -> CodecContender:
        return contender(name, coder_of(codec, self.preset), codec.provenance)

    def _train(self, name: str, config: TrainingConfig) -> Codec:
        return self.workshop.codec(name, self.sources, config)


def steps_at(codec: Codec, matrices: Sequence[WeightMatrix], bits: float) -> tuple[float, float]:
    """Steps that the encoder takes for `bits` per weight: (mean, reach) of log2 of step over root mean square weight.

    Mean over matrices as training draws them, by the square root of their size; the reach is one standard deviation,
    at least _LEAST_REACH.
    """
    found, weights = [], []
    for matrix in matrices:
        values = matrix.sample(_SAMPLE, np.random.default_rng(0))
        if not values.any():
            continue
        with suppress(Unsuitable):
            stream, _ = encode_matrix(
                values,
                bits,
                n_states=PRESETS["default"],
                taps=matrix.taps,
                prior=codec.prior,
                transforms=codec.transforms,
            )
            rms = math.sqrt(float(np.square(values, dtype=np.float64).mean()))
            found.append(math.log2(float(stream.header.step) / rms))
            weights.append(math.sqrt(matrix.values.size))
    mean = float(np.average(found, weights=weights))
    spread = math.sqrt(float(np.average(np.square(np.subtract(found, mean)), weights=weights)))
    return round(mean, 2), round(max(spread, _LEAST_REACH), 2)  # rounded, so that a last bit makes no other codec
