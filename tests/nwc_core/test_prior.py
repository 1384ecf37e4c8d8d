"""Integer tables: exact sums, symmetry, near-optimal rounding, and code lengths that are the coder's own."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from codec_samples import REACH, laplace_cdf, normal_cdf, pmf, sample_codec
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.errors import FormatError
from nwc_core.prior import (
    ESCAPE,
    ESCAPE_FLAG,
    LEVELS,
    MAX_HALF_WIDTH,
    OCTAVE,
    PRECISION,
    RATE_SPAN,
    TABLE_LEVELS,
    TOTAL,
    Prior,
    ShapeTables,
    normalise,
    raw_bits,
)


def _code_length(pmf: npt.NDArray[np.float64], freq: npt.NDArray[np.int64]) -> float:
    return float(-(pmf * np.log(freq / freq.sum())).sum())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=4).filter(lambda p: sum(p) > 0.01), st.integers(4, 16))
def test_normalise_is_as_good_as_trying_everything(weights: list[float], total: int) -> None:
    pmf = np.array(weights) / sum(weights)
    freq = normalise(pmf, total)
    assert freq.sum() == total
    assert freq.min() >= 1
    cuts = itertools.combinations(range(1, total), pmf.size - 1)
    best = min(_code_length(pmf, np.diff([0, *cut, total])) for cut in cuts)
    # Rounding first is a hair from the best: 0.05 of one count's worth.
    assert _code_length(pmf, freq) <= best + 0.05 / total


@pytest.fixture(scope="module")
def prior() -> Prior:
    return sample_codec().prior


def test_tables_are_complete_and_symmetric(prior: Prior) -> None:
    for tables in prior.tables:
        assert (tables.freq.sum(1) == TOTAL).all()
        for table in range(2 * TABLE_LEVELS):
            zero, q = int(tables.zero[table]), table & 1
            escape = 2 * zero + 1 - q
            row = tables.freq[table]
            assert row[: escape + 1].min() >= 1
            assert not row[escape + 1 :].any()
            # k = j of q = 0 mirrors k = -j; of q = 1, where n = 2k + 1, it mirrors k = -1 - j.
            assert (row[:escape] == row[:escape][::-1]).all()
            slots = np.concatenate([[0], np.cumsum(row[: escape + 1])])
            assert (tables.start[table, : escape + 1] == slots[:-1]).all()
            owner = np.searchsorted(slots, np.arange(TOTAL), side="right") - 1
            owned = tables.slots[table << PRECISION :][:TOTAL]
            assert (owned == np.where(owner == escape, ESCAPE, owner - zero)).all()
            k = np.arange(-128, 128)
            symbol = np.where((k >= -zero) & (k < escape - zero), k + zero, escape)
            entry = tables.entries[(table << 8) + (k & 255)]
            assert (entry >> 16 == row[symbol]).all()
            assert (entry & TOTAL - 1 == tables.start[table, symbol]).all()
            assert ((entry & ESCAPE_FLAG > 0) == (symbol == escape)).all()


def test_tables_follow_the_density_that_they_were_made_from(prior: Prior) -> None:
    """Bits lost to 14-bit frequencies and to escapes, where the density is the one that the tables were made from."""
    for shape, cdf in enumerate((normal_cdf, laplace_cdf)):
        for level in range(TABLE_LEVELS):
            p = pmf(cdf, level)[REACH - RATE_SPAN : REACH + RATE_SPAN]
            ideal = -np.log2(p)
            for q in (0, 1):
                lost = (p * (prior.tables[shape].rate[level] - ideal))[q::2].sum()
                assert lost < (0.0015 if level < TABLE_LEVELS - 2 * OCTAVE else 0.01)


@pytest.mark.parametrize("level", [0, 13, 24, 50, TABLE_LEVELS - 1])
@pytest.mark.parametrize("shape", [0, 1])
def test_rate_is_the_code_length(prior: Prior, shape: int, level: int) -> None:
    tables = prior.tables[shape]
    for n in range(-RATE_SPAN, RATE_SPAN):
        q, k = n & 1, n >> 1
        table, symbol = 2 * level + q, k + int(tables.zero[2 * level + q])
        escape = 2 * int(tables.zero[table]) + 1 - q
        if 0 <= symbol < escape:
            wanted = -np.log2(tables.freq[table, symbol] / TOTAL)
        else:
            varint = 1 if -64 <= k < 64 else 2
            wanted = -np.log2(tables.freq[table, escape] / TOTAL) + 8 * varint
        assert tables.rate[level, n + RATE_SPAN] == pytest.approx(wanted, abs=1e-4)


def test_levels_beyond_the_tables_add_raw_bits(prior: Prior) -> None:
    levels = np.arange(LEVELS, dtype=np.uint8)
    raw = raw_bits(levels)
    assert not raw[:TABLE_LEVELS].any()
    assert raw.max() == 16
    base = levels - OCTAVE * raw
    assert (base[TABLE_LEVELS:] >= TABLE_LEVELS - OCTAVE).all()
    assert (base < TABLE_LEVELS).all()
    tables = prior.tables[0]
    assert tables.rate[150] == pytest.approx(tables.rate[base[150]] + raw[150])
    assert np.diff(tables.mean_rate).min() >= -1e-3  # wider never costs less, but for the rounding of frequencies
    # An octave is a bit, and sigma / step = 2^5 has the entropy of a Gaussian on even points only.
    entropy = np.log2(32 * np.sqrt(2 * np.pi * np.e)) - 1
    assert tables.mean_rate[64] == pytest.approx(entropy, abs=0.01)
    assert tables.mean_rate[64 + 3 * OCTAVE] == pytest.approx(entropy + 3, abs=0.01)


def _rebuild(prior: Prior, width: npt.NDArray[np.uint8], halves: npt.NDArray[np.uint16]) -> list[ShapeTables]:
    return Prior(width, halves).tables


def test_damaged_tables_are_refused(prior: Prior) -> None:
    width, halves = prior.half_width, prior.halves
    with pytest.raises(FormatError, match="numbers"):
        _rebuild(prior, width, halves[:-1])
    with pytest.raises(FormatError, match="shape 0, level 0, q 0"):
        changed = halves.copy()
        changed[0] += 1
        _rebuild(prior, width, changed)
    with pytest.raises(FormatError, match="least 0"):
        changed = halves.copy()
        changed[0], changed[1] = changed[0] + 2 * changed[1], 0
        _rebuild(prior, width, changed)
    wide = np.full((1, TABLE_LEVELS), MAX_HALF_WIDTH + 1, np.uint8)
    with pytest.raises(FormatError, match="half width 127"):
        _rebuild(prior, wide, np.ones(2 * TABLE_LEVELS * (MAX_HALF_WIDTH + 3), np.uint16))


def test_the_smallest_tables_hold_zero_and_the_escape() -> None:
    """K = 0: q = 0 codes k = 0, q = 1 codes k = -1 and 0."""
    halves = np.tile(np.array([TOTAL - 1, 1, (TOTAL - 2) // 2, 2], np.uint16), TABLE_LEVELS)
    tables = Prior(np.zeros((1, TABLE_LEVELS), np.uint8), halves).tables[0]
    assert tables.freq[0, :2].tolist() == [TOTAL - 1, 1]
    assert tables.freq[1, :3].tolist() == [TOTAL // 2 - 1, TOTAL // 2 - 1, 2]
