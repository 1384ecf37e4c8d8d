"""Scales and the vectors that carry them: exact on the wire, true to the matrix, worth their bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from codec_samples import gaussian, sample_codec
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core import intvector
from nwc_core.errors import FormatError
from nwc_core.prior import LEVEL_ZERO, LEVELS, OCTAVE, TABLE_LEVELS
from nwc_core.scales import Scales, Spread, levels_of
from nwc_core.wire import ByteReader, ByteWriter

PRIOR = sample_codec().prior


def _write(values: list[int]) -> bytes:
    out = ByteWriter()
    intvector.write(out, np.array(values, np.int64), PRIOR)
    return out.getvalue()


def _read(data: bytes, expected: int) -> npt.NDArray[np.int32]:
    reader = ByteReader(data, "layer 1")
    values = intvector.read(reader, expected, PRIOR, "row scales")
    reader.end()
    return values


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.lists(st.integers(-3, 3), max_size=300),
        st.lists(st.integers(-5000, 5000), max_size=60),
        st.lists(st.sampled_from([0, 0, 0, 1, 60_000]), max_size=60),
        st.lists(st.just(77), max_size=60),
    )
)
def test_vectors_are_read_back(values: list[int]) -> None:
    data = _write(values)
    assert _read(data, len(values)).tolist() == values
    # The cost that choices are made by is nearly what is written.
    far = sum(abs(v - int(np.median(values))) > 60 for v in values)
    assert 8 * len(data) <= intvector.cost_bits(np.array(values, np.int64)) + 64 + len(values) + 32 * far


def test_equal_values_take_no_room() -> None:
    assert len(_write([5] * 100_000)) == 5


def test_small_values_take_their_entropy() -> None:
    values = np.rint(np.random.default_rng(0).standard_normal(5000) * 3).astype(np.int64)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * 9)
    assert 8 * len(_write(values.tolist())) / values.size == pytest.approx(entropy, rel=0.02)


def _vector(*fields: tuple[str, int]) -> bytes:
    out = ByteWriter()
    for kind, value in fields:
        getattr(out, kind)(value)
    return out.getvalue()


CODED = ("varint", 3), ("u8", 1), ("zigzag", 0)  # three coded values around zero


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_write([1, 2, 3, 4]), "4 row scales; wanted 3"),
        (_vector(("varint", 3), ("u8", 2), ("zigzag", 0)), "kind 2"),
        (_vector(("varint", 3), ("u8", 0), ("zigzag", 1 << 30)), "around"),
        (_vector(*CODED, ("u8", 2), ("u8", 0)), "table shape 2"),
        (_vector(*CODED, ("u8", 0), ("u8", TABLE_LEVELS)), "level 64"),
        (_vector(*CODED, ("u8", 0), ("u8", 9), ("varint", 0), ("varint", 4)), "escapes"),
        (_vector(*CODED, ("u8", 0), ("u8", 9), ("varint", 1 << 60), ("varint", 0)), "words"),
        (_write([1, 2, 3])[:-1], "layer 1"),
        (_write([1, 2, 1 << 20])[:-3] + b"\xff\xff\xff\xff\x0f", "escaped index"),
    ],
)
def test_damaged_vectors(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        _read(data, 3)


@settings(deadline=None, max_examples=80)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    base=st.integers(-3000, 3000),
    reach=st.sampled_from([0, 2, 300]),
    shifts=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    seed=st.integers(0, 1 << 30),
)
def test_scales_are_read_back_and_make_levels(
    m: int, n: int, base: int, reach: int, shifts: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = (rng.integers(-reach, reach + 1, size).astype(np.int32) for size in (m, n))
    scales = Scales(base, rows, columns, *shifts)
    out = ByteWriter()
    scales.write(out, PRIOR)
    reader = ByteReader(out.getvalue(), "x")
    again = Scales.read(reader, m, n, PRIOR)
    reader.end()
    level = np.clip(base + (rows[:, None] << shifts[0]) + (columns[None, :] << shifts[1]), 0, LEVELS - 1)
    assert (levels_of(*again.axes()) == level).all()


@pytest.mark.parametrize("shift", [(6, 0), (0, 6)])
def test_scales_that_cannot_be(shift: tuple[int, int]) -> None:
    for base, shifts in ((0, shift), (1 << 20, (0, 0))):
        out = ByteWriter()
        out.zigzag(base)
        out.u8(shifts[0])
        out.u8(shifts[1])
        with pytest.raises(FormatError, match="base level"):
            Scales.read(ByteReader(out.getvalue(), "x"), 1, 1, PRIOR)


@pytest.mark.parametrize("magnitude", [1e-36, 1.0, 1e36])
def test_spread_finds_a_product_of_scales(magnitude: float) -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.exp2(rng.uniform(-4, 4, 200)), np.exp2(rng.uniform(-3, 3, 300))
    weight = (gaussian(200, 300).numpy() * rows[:, None] * columns[None, :] * magnitude).astype(np.float32)
    spread = Spread.measure(weight)
    found = spread.rows[:, None] + spread.columns[None, :]
    true = OCTAVE * np.log2(rows[:, None] * columns[None, :] * magnitude)
    assert np.abs(found - true).mean() < 1.0  # of levels: 200 samples tell a scale to 5 %, half a level


def test_the_spectrum_counts_every_weight() -> None:
    weight = gaussian(40, 50).numpy() * np.exp2(np.arange(40)[:, None] / 4).astype(np.float32)
    levels, counts = Spread.measure(weight).spectrum()
    assert counts.sum() == weight.size
    mean_level = LEVEL_ZERO + OCTAVE * (np.arange(40) / 4).mean()
    assert (levels * counts).sum() / weight.size == pytest.approx(mean_level, abs=1)


def test_noise_gets_one_scale_and_structure_gets_its_own() -> None:
    noise = gaussian(256, 256).numpy()
    flat = Spread.measure(noise).scales(np.full(256, -2.0), np.zeros(256))
    level = levels_of(*flat.axes())
    assert np.ptp(level) == 0
    assert abs(int(level[0, 0]) - (LEVEL_ZERO + 2 * OCTAVE)) <= 1
    ramp = noise * np.exp2(np.arange(256)[:, None] / 32).astype(np.float32)
    sloped = Spread.measure(ramp).scales(np.full(256, -2.0), np.zeros(256))
    rows = levels_of(*sloped.axes()).astype(float).mean(1)
    assert np.abs(rows - (LEVEL_ZERO + 2 * OCTAVE + np.arange(256) / 4)).max() < 6


def test_zero_rows_and_columns_are_measured() -> None:
    weight = gaussian(20, 30).numpy().copy()
    weight[3], weight[:, 7] = 0, 0
    spread = Spread.measure(weight)
    assert np.isfinite(spread.rows).all()
    assert np.isfinite(spread.columns).all()
    assert spread.rows[3] < spread.rows.mean() - 5 * OCTAVE
