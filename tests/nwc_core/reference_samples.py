"""A tiny reference codec, trained for a moment: it is nearly the scalar quantiser that training starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from nwc_core.codec import Codec
from nwc_core.reference.coder import ReferenceCoder
from nwc_core.training.dataset import WeightDataset, build_dataset
from nwc_core.training.reference import ReferenceConfig, ReferenceTrainer

CONFIG = ReferenceConfig(width=32, depth=2, steps=250, batch=256, warmup=10, held_out=0.2)
SOURCES = [{"name": "m", "sha256": "0" * 64}]


@contextmanager
def one_thread() -> Iterator[None]:
    """As `nwc train` does; on a busy machine small sums split over threads take many times longer, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def dataset() -> WeightDataset:
    rng = np.random.default_rng(0)
    rows = 2.0 ** rng.uniform(-3, 3, (8, 96, 1))
    weights = rng.standard_normal((8, 96, 80)) * rows
    return build_dataset(
        [(f"m/linear.{i}", torch.from_numpy(w.astype(np.float32))) for i, w in enumerate(weights)],
        CONFIG.held_out,
        CONFIG.seed,
    )


@cache
def trained() -> tuple[ReferenceTrainer, Codec]:
    with one_thread():
        trainer = ReferenceTrainer(dataset(), CONFIG, SOURCES)
        return trainer, trainer.run()


def reference_codec() -> Codec:
    """As it comes back from its file."""
    return Codec.from_bytes(trained()[1].to_bytes())


def reference_coder() -> ReferenceCoder:
    coder = reference_codec().coder
    assert isinstance(coder, ReferenceCoder)
    return coder
