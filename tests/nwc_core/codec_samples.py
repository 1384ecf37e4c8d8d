"""A small codec whose tables follow from formulas, so that tests know what they are, and tensors of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st

from nwc_core.codec import Codec
from nwc_core.dtypes import DType
from nwc_core.prior import LEVEL_ZERO, OCTAVE, TABLE_LEVELS, Prior
from nwc_core.transform import SCALE_BITS

REACH = 256
_FLOOR = 1e-9


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def laplace_cdf(x: float) -> float:
    tail = 0.5 * math.exp(-math.sqrt(2) * abs(x))
    return tail if x < 0 else 1 - tail


def sigma(level: int) -> float:
    """Sigma in units of the step at a level."""
    return float(2.0 ** ((level - LEVEL_ZERO) / OCTAVE))


def pmf(cdf: Callable[[float], float], level: int) -> npt.NDArray[np.float64]:
    """[2 * REACH + 1] mass of the cell [n - 1, n + 1], given the parity of n."""
    # From the negative side, where both terms are small and the difference exact; then mirrored.
    left = [cdf((n + 1) / sigma(level)) - cdf((n - 1) / sigma(level)) for n in range(-REACH, 1)]
    p = np.array([*left, *left[-2::-1]]) + _FLOOR
    for parity in (0, 1):
        p[parity::2] /= p[parity::2].sum()
    return p


def dct(side: int) -> npt.NDArray[np.int16]:
    """[side^2, side^2] separable cosine transform in units of 2^-14."""
    k, x = np.arange(side)[:, None], np.arange(side)[None, :]
    basis = np.cos(np.pi * (2 * x + 1) * k / (2 * side)) * np.sqrt(np.where(k == 0, 1, 2) / side)
    return np.rint(np.kron(basis, basis) * (1 << SCALE_BITS)).astype(np.int16)


@cache
def sample_codec() -> Codec:
    """Shape 0 is Gaussian, shape 1 Laplacian; transform 1 is the cosine transform of 3x3 kernels."""
    tables = [[pmf(cdf, level) for level in range(TABLE_LEVELS)] for cdf in (normal_cdf, laplace_cdf)]
    return Codec(Prior.from_pmf(tables), [dct(3)], {"made by": "tests/nwc_core/codec_samples.py"})


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal float32, from numpy: its generator does not change between versions."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def bits_of(tensor: torch.Tensor) -> bytes:
    """The elements' bytes, for comparisons that tell NaN from NaN and -0 from 0."""
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def random_bits(dtype: DType, shape: tuple[int, ...], seed: int, constant: bool = False) -> torch.Tensor:
    """Elements of random bits: NaN with payloads, infinities, denormals, -0 where the type has them."""
    rng = np.random.default_rng(seed)
    count = math.prod(shape)
    if dtype.name == "BOOL":
        return torch.from_numpy(rng.integers(0, 2, shape)).to(torch.bool)
    raw = rng.integers(0, 256, (count, dtype.itemsize), np.uint8)
    if constant and count:
        raw[:] = raw[0]
    if not count:
        return torch.empty(shape, dtype=dtype.torch)
    return torch.from_numpy(raw.reshape(-1)).view(dtype.torch).reshape(shape)


Make = Callable[[tuple[int, ...]], torch.Tensor]


def _strided(make: Make, shape: tuple[int, ...]) -> torch.Tensor:
    """Every second element along each axis of a larger tensor, from the second on."""
    whole = make(tuple(2 * size + 1 for size in shape))
    return whole[tuple(slice(1, None, 2) for _ in shape)]


# How a tensor may lie in memory: each makes one of the given shape from a maker of contiguous ones.
VIEWS: dict[str, Callable[[Make, tuple[int, ...]], torch.Tensor]] = {
    "contiguous": lambda make, shape: make(shape),
    "transposed": lambda make, shape: make(shape[::-1]).permute(tuple(range(len(shape)))[::-1]),
    "strided": _strided,
    "expanded": lambda make, shape: make((*shape[:-1], 1)).expand(shape) if shape else make(shape),
    "offset": lambda make, shape: make((2, *shape))[1],
}


def small_shapes() -> st.SearchStrategy[tuple[int, ...]]:
    """Ranks 0 to 5, sizes 0 to 6."""
    return st.lists(st.integers(0, 6), max_size=5).map(tuple)
