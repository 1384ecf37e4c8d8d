"""Synthesis in integers: what the formula says, the same bits everywhere, and bases that keep the error's size."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from codec_samples import dct, gaussian, sample_codec
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_synthesis import fused, synthesise

from nwc_core import steps
from nwc_core.basis import COLUMNS, ROWS, Basis
from nwc_core.codec import Codec
from nwc_core.decorrelate import Parts
from nwc_core.errors import FormatError
from nwc_core.matrix_stream import MatrixStream
from nwc_core.nwc_coder import NwcCoder
from nwc_core.synthesis import MAX_STEP_RANGE
from nwc_core.transform import SCALE_BITS, analyse
from nwc_core.wire import ByteReader


def test_steps_are_powers_of_two_eighths() -> None:
    exponent = np.arange(-steps.MAX_EXPONENT, steps.MAX_EXPONENT + 1, dtype=np.int32)
    exact = 2.0 ** (exponent / 8)
    power = steps.power(exponent)
    assert power.dtype == np.float32
    assert (power == exact.astype(np.float32)).all()  # each the nearest float32
    positive = exponent[exponent >= 0]
    fixed = steps.fixed_power(positive) / (1 << steps.FIXED_BITS)
    assert np.abs(fixed / 2.0 ** (positive / 8) - 1).max() < 1.5 / (1 << steps.FIXED_BITS)


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(1, 6),
    groups=st.integers(1, 4),
    transformed=st.booleans(),
    spread=st.sampled_from([0, 3, MAX_STEP_RANGE]),
    reach=st.sampled_from([1, 40, (1 << 22) - 1]),
    step=st.sampled_from([1.0, 0.3, 2.0**-60, 2.0**60]),
    seed=st.integers(0, 1 << 30),
)
def test_synthesis_is_the_formula(
    m: int, groups: int, transformed: bool, spread: int, reach: int, step: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n = 9 * groups
    points = rng.integers(-reach, reach + 1, (m, n)).astype(np.int32)
    rows = rng.integers(-8, 9, m).astype(np.int32)
    columns = rng.integers(0, spread + 1, n).astype(np.int32) - spread // 2
    basis = dct(3) if transformed else None
    found = fused(points, np.float32(step), rows, columns, matrix=basis)
    scaled = points * (float(np.float32(step)) * 2.0 ** (rows[:, None] / 8 + columns[None, :] / 8))
    exact = scaled
    if basis is not None:
        exact = (scaled.reshape(-1, 9) @ (basis.astype(np.float64) / (1 << SCALE_BITS))).reshape(m, n)
    # Fixed-point steps are off by up to 1.5 / 4096 of the largest coefficient in a group.
    tolerance = np.abs(scaled).max(axis=1, keepdims=True) * (1e-3 if transformed and spread else 1e-6)
    if transformed and spread:  # and by 1/128 step of the finest column, three of them in a sum of nine
        tolerance = tolerance + 0.03 * step * 2.0 ** ((rows[:, None] + columns.min()) / 8)
    assert found.dtype == np.float32
    assert (np.abs(found - exact) <= tolerance + 1e-30).all()
    plain = synthesise(points, np.float32(step), rows, columns, matrix=basis)
    assert (found.view(np.uint32) == plain.view(np.uint32)).all()


def test_synthesis_never_changes() -> None:
    """The bytes of a fixed case: what was decoded once is decoded for ever."""
    rng = np.random.default_rng(7)
    points = rng.integers(-300, 300, (40, 36)).astype(np.int32)
    rows = rng.integers(-20, 20, 40).astype(np.int32)
    columns = rng.integers(-5, 30, 36).astype(np.int32)
    columns_basis = Basis(COLUMNS, np.tril(rng.integers(1, 30, (36, 7))).astype(np.int32))
    rows_basis = Basis(ROWS, np.tril(rng.integers(1, 30, (40, 5))).astype(np.int32))
    digests = [
        hashlib.sha256(fused(points, np.float32(0.0123), rows, columns, bases, matrix).tobytes()).hexdigest()[:16]
        for bases, matrix in (((), None), ((), dct(3)), ((columns_basis, rows_basis), dct(3)))
    ]
    assert digests == SYNTHESIS_DIGESTS


SYNTHESIS_DIGESTS = ["84561558bb074bee", "0447c0050e7bbefe", "364dbef753d6e59a"]


def test_analysis_inverts_and_keeps_the_energy() -> None:
    weight = gaussian(30, 36).numpy()
    coefficients = analyse(weight, dct(3))
    assert np.square(coefficients).sum() == pytest.approx(np.square(weight).sum(), rel=1e-3)
    step = np.float32(2.0**-16)
    points = np.rint(coefficients / step).astype(np.int32)
    back = fused(points, step, np.zeros(30, np.int32), np.zeros(36, np.int32), matrix=dct(3))
    assert np.abs(back - weight).max() < 1e-3
    constant = analyse(np.ones((1, 9), np.float32), dct(3))[0]
    assert constant[0] == pytest.approx(3, abs=1e-3)
    assert np.abs(constant[1:]).max() < 1e-3


def _transform_of(codec: Codec, weight: torch.Tensor, bits: float) -> int:
    encoded = codec.encode(weight, bits)
    reader = ByteReader(encoded.body, "x")
    reader.raw(weight.ndim + 2)
    body = ByteReader(reader.raw(reader.varint()), "x")
    matrix = (weight.shape[0], weight[0].numel())
    return MatrixStream.read(body, *matrix, codec.prior, codec.transforms).header.transform


def _smooth(out: int, into: int) -> torch.Tensor:
    """3x3 kernels whose taps go together."""
    return 0.3 * gaussian(out, into, 3, 3) + gaussian(out, into, 1, 1, seed=1)


def test_smooth_kernels_take_the_transform_and_gain() -> None:
    codec = sample_codec()
    plain = Codec.of(NwcCoder(codec.prior, [], Parts(bases=False)), {})
    weight = _smooth(64, 32)
    assert _transform_of(codec, weight, 3.0) == 1
    with_transform, without = codec.encode(weight, 3.0), plain.encode(weight, 3.0)
    assert with_transform.mse is not None
    assert without.mse is not None
    assert with_transform.mse < 0.5 * without.mse


@pytest.mark.parametrize("bits", [2.0, 4.0, 7.0])
def test_noise_is_not_made_worse(bits: float) -> None:
    """Bits per weight above the same codec without transforms, on the average of some noise."""
    codec = sample_codec()
    plain = Codec.of(NwcCoder(codec.prior, [], Parts(bases=False)), {})
    above = []
    for seed in range(6):
        weight = gaussian(64, 32, 3, 3, seed=seed)
        tried, without = codec.encode(weight, bits), plain.encode(weight, bits)
        assert tried.mse is not None
        assert without.mse is not None
        rate = tried.bits_per_weight - without.bits_per_weight
        above.append(0.5 * np.log2(tried.mse / without.mse) + rate)
    assert np.mean(above) < 0.005
    assert np.max(above) < 0.02


def test_other_shapes_never_take_it() -> None:
    assert _transform_of(sample_codec(), gaussian(64, 36), 4.0) == 0
    assert _transform_of(sample_codec(), _smooth(64, 32).reshape(64, 288), 4.0) == 0


def _with_transform(matrix: np.ndarray) -> Codec:
    return Codec.from_bytes(Codec(sample_codec().prior, [matrix], {}).to_bytes(), "file")


def test_bases_that_are_not_orthonormal_are_refused() -> None:
    assert len(_with_transform(dct(3)).transforms) == 1
    scaled, skewed = dct(3).astype(np.int32) * 101 // 100, dct(3)
    skewed[0, 0] += 100
    for matrix in (scaled.astype(np.int16), skewed, np.zeros((9, 9), np.int16), dct(3)[:8], dct(3)[:1, :1]):
        with pytest.raises(FormatError, match=r"transform\.1"):
            _with_transform(matrix)
