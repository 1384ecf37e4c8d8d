"""The entropy coder: exact round trips, near-optimal length, and damage that is always an error."""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest.mock import patch

import constriction
import numpy as np
import numpy.typing as npt
import pytest
from codec_samples import sample_codec, sigma
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core import rans
from nwc_core.errors import FormatError
from nwc_core.prior import LEVELS, OCTAVE, PRECISION, TABLE_LEVELS, TOTAL, raw_bits
from nwc_core.rans import MAX_LANES, Decoder, Segment, decode_segment, encode_segment
from nwc_core.trellis import STATES, transitions

Points = npt.NDArray[np.int32]
Levels = npt.NDArray[np.uint8]


def follow(k: npt.NDArray[np.int64], lanes: int, n_states: int) -> Points:
    """Points n = 2k + q that a trellis allows, written as the definition says it."""
    state, move = [0] * lanes, transitions(n_states)
    points = np.empty(k.size, np.int32)
    for i, index in enumerate(k.tolist()):
        lane = i % lanes
        points[i] = 2 * index + (state[lane] & 1)
        state[lane] = int(move[state[lane], index & 1])
    return points


def draw(count: int, level: Levels, seed: int, stretch: float) -> npt.NDArray[np.int64]:
    """Indices about as wide as their levels say, times `stretch`, with some far out."""
    rng = np.random.default_rng(seed)
    wide = np.array([sigma(int(lev)) for lev in level]) / 2 * stretch
    k = np.rint(rng.standard_normal(count) * wide).astype(np.int64)
    far = rng.random(count) < 0.01
    k[far] = rng.integers(-(1 << 21), 1 << 21, int(far.sum()))
    return np.clip(k, -(1 << 21), (1 << 21) - 1)


@settings(deadline=None, max_examples=120)
@given(
    count=st.integers(1, 400),
    lanes=st.integers(1, MAX_LANES),
    n_states=st.sampled_from(STATES),
    shape=st.integers(0, 1),
    levels=st.tuples(st.integers(0, LEVELS - 1), st.integers(0, LEVELS - 1)),
    stretch=st.sampled_from([0.0, 0.3, 1.0, 3.0, 100.0]),
    seed=st.integers(0, 1 << 30),
)
def test_round_trip(
    count: int, lanes: int, n_states: int, shape: int, levels: tuple[int, int], stretch: float, seed: int
) -> None:
    level = np.random.default_rng(seed).integers(min(levels), max(levels) + 1, count).astype(np.uint8)
    points = follow(draw(count, level, seed, stretch), lanes, n_states)
    tables, move = sample_codec().prior.tables[shape], transitions(n_states)
    segment = encode_segment(points, level, lanes, move, tables)
    assert (decode_segment(segment, level, move, tables, "x") == points).all()
    assert segment.states.size == lanes


def same(a: Segment, b: Segment) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("states", "words", "escapes"))


@settings(deadline=None, max_examples=120)
@given(
    count=st.integers(1, 700),
    lanes=st.integers(1, MAX_LANES),
    n_states=st.sampled_from(STATES),
    levels=st.tuples(st.integers(0, LEVELS - 1), st.integers(0, LEVELS - 1)),
    stretch=st.sampled_from([0.0, 1.0, 3.0, 100.0]),
    pieces=st.lists(st.integers(1, 8), max_size=6),
    seed=st.integers(0, 1 << 30),
)
def test_vectors_and_single_points_give_the_same_words_and_points(
    count: int, lanes: int, n_states: int, levels: tuple[int, int], stretch: float, pieces: list[int], seed: int
) -> None:
    level = np.random.default_rng(seed).integers(min(levels), max(levels) + 1, count).astype(np.uint8)
    points = follow(draw(count, level, seed, stretch), lanes, n_states)
    tables, move = sample_codec().prior.tables[0], transitions(n_states)
    with patch.object(rans, "_FEWEST_LANES", MAX_LANES + 1):
        plain = encode_segment(points, level, lanes, move, tables)
        assert (decode_segment(plain, level, move, tables, "x") == points).all()
    with patch.object(rans, "_FEWEST_LANES", 1):
        assert same(encode_segment(points, level, lanes, move, tables), plain)
        # In pieces of whole steps, the last one whatever is left.
        cuts = [cut for cut in np.cumsum([0, *pieces]) * lanes if cut < count]
        decoder, found = Decoder(plain, move, tables, "x"), np.empty(count, np.int32)
        for first, last in itertools.pairwise([*cuts, count]):
            decoder.decode(level[first:last], found[first:last])
        decoder.finish()
        assert (found == points).all()


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_hostile_streams_get_the_same_answer_from_both(data: st.DataObject) -> None:
    """Random words and states, so that every index that a vector looks up is as far out as it can be."""
    seed, lanes = data.draw(st.integers(0, 1 << 30)), data.draw(st.integers(1, MAX_LANES))
    rng = np.random.default_rng(seed)
    level = rng.integers(0, data.draw(st.sampled_from([30, TABLE_LEVELS, LEVELS])), 300).astype(np.uint8)
    words = rng.integers(0, 1 << 16, data.draw(st.integers(0, 600))).astype(np.uint16)
    states = rng.integers(0, 1 << 32, lanes, dtype=np.uint32)
    segment = Segment(states, words, rng.integers(-(1 << 21), 1 << 21, data.draw(st.integers(0, 300))).astype(np.int32))
    outcomes = []
    for lanes_for_vectors in (1, MAX_LANES + 1):
        with patch.object(rans, "_FEWEST_LANES", lanes_for_vectors):
            points = np.zeros(level.size, np.int32)
            decoder = Decoder(segment, transitions(8), sample_codec().prior.tables[0], "x")
            try:
                decoder.decode(level, points)
                outcomes.append(points.tolist())
            except FormatError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("level", range(LEVELS))
def test_every_level_codes_its_extremes(level: int) -> None:
    """The widest k of a table, the first that escapes, and the largest that the quantiser can give, each sign."""
    tables, move = sample_codec().prior.tables[0], transitions(8)
    raw = int(raw_bits(np.array([level]))[0])
    width = int(tables.zero[2 * (level - OCTAVE * raw)])
    edges = (width << raw, (width + 1 << raw) - 1, width + 1 << raw, (1 << 21) - 1)
    k = np.array([sign * edge - (sign < 0) * d for edge in edges for sign in (1, -1) for d in (0, 1)] * 3, np.int64)
    k = np.clip(k, -(1 << 21), (1 << 21) - 1)
    points = follow(k, 2, 8)
    levels = np.full(k.size, level, np.uint8)
    segment = encode_segment(points, levels, 2, move, tables)
    assert (decode_segment(segment, levels, move, tables, "x") == points).all()
    if level < 150:
        assert segment.escapes.size > 0


def _ideal_bits(points: Points, level: Levels, shape: int) -> float:
    """Code length under the tables themselves, for points without escapes."""
    tables = sample_codec().prior.tables[shape]
    raw = raw_bits(level)
    q = points & 1
    table = 2 * (level.astype(np.int64) - OCTAVE * raw) + q
    symbol = ((points - q >> 1) >> raw) + tables.zero[table]
    assert (symbol < 2 * tables.zero[table] + 1 - q).all()
    return float((PRECISION - np.log2(tables.freq[table, symbol]) + raw).sum())


def _bits(segment: Segment, lanes: int) -> int:
    # A state carries its own lower bound of 16 bits: what it costs beyond them is the lane's overhead.
    return 16 * segment.words.size + 32 * lanes


@pytest.mark.parametrize("lanes", [1, 32])
@pytest.mark.parametrize("levels", [(0, 12), (20, 50), (TABLE_LEVELS - 4, 120), (190, LEVELS - 1)])
def test_length_is_that_of_the_tables(lanes: int, levels: tuple[int, int]) -> None:
    count = 20_000
    rng = np.random.default_rng(1)
    level = rng.integers(*levels, count).astype(np.uint8)
    raw = raw_bits(level)
    tables = sample_codec().prior.tables[0]
    narrow = tables.zero[2 * (level.astype(np.int64) - OCTAVE * raw)] - 1
    k = np.rint(rng.standard_normal(count) * [sigma(int(lev)) / 2 for lev in level]).astype(np.int64)
    k = np.clip(k, -narrow << raw, narrow << raw)
    points = follow(k, lanes, 8)
    segment = encode_segment(points, level, lanes, transitions(8), tables)
    assert segment.escapes.size == 0
    ideal = _ideal_bits(points, level, 0)
    assert ideal <= _bits(segment, lanes) <= 1.001 * ideal + 32 * lanes


def test_length_beside_an_independent_coder() -> None:
    """constriction's ANS coder with the same tables: as short, but for the start of a lane."""
    count, lanes = 20_000, 4
    rng = np.random.default_rng(2)
    level = rng.integers(16, 60, count).astype(np.uint8)
    tables = sample_codec().prior.tables[1]
    k = np.rint(rng.laplace(size=count) * [sigma(int(lev)) / 3 for lev in level]).astype(np.int64)
    points = follow(k, lanes, 8)
    segment = encode_segment(points, level, lanes, transitions(8), tables)
    oracle = constriction.stream.stack.AnsCoder()
    q = points & 1
    table = 2 * level.astype(np.int64) + q
    escape = 2 * tables.zero[table] + 1 - q
    symbol = (points - q >> 1) + tables.zero[table]
    symbol = np.where((symbol < 0) | (symbol >= escape), escape, symbol).astype(np.int32)
    for t in np.unique(table):
        width = 2 * int(tables.zero[t]) + 2 - int(t & 1)
        model = constriction.stream.model.Categorical(tables.freq[t, :width] / TOTAL, perfect=False)
        oracle.encode_reverse(symbol[table == t], model)
    assert abs(_bits(segment, lanes) / oracle.num_bits() - 1) < 0.002


def _sample() -> tuple[Segment, Levels, Points]:
    level = np.random.default_rng(3).integers(0, 110, 600).astype(np.uint8)
    points = follow(draw(600, level, 3, 1.5), 5, 8)
    return encode_segment(points, level, 5, transitions(8), sample_codec().prior.tables[0]), level, points


def _decode(segment: Segment, level: Levels) -> Points:
    return decode_segment(segment, level, transitions(8), sample_codec().prior.tables[0], "layer 3")


def test_missing_or_added_pieces_are_errors() -> None:
    segment, level, points = _sample()
    assert segment.escapes.size > 1
    assert (_decode(segment, level) == points).all()
    none16, none32 = np.empty(0, np.uint16), np.empty(0, np.int32)
    for damaged in (
        replace(segment, words=segment.words[:-1]),
        replace(segment, words=segment.words[1:]),
        replace(segment, words=none16),
        replace(segment, words=np.append(segment.words, np.uint16(0))),
        replace(segment, escapes=segment.escapes[:-1]),
        replace(segment, escapes=none32),
        replace(segment, escapes=np.append(segment.escapes, np.int32(0))),
        replace(segment, states=segment.states[:-1]),
        replace(segment, states=np.append(segment.states, segment.states[0])),
        replace(segment, states=segment.states[::-1].copy()),
    ):
        with pytest.raises(FormatError, match="layer 3"):
            _decode(damaged, level)
    for length in (1, 599):
        with pytest.raises(FormatError):
            _decode(segment, level[:length])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_streams_never_do_more_than_fail(data: st.DataObject) -> None:
    segment, level, points = _sample()
    parts = {name: getattr(segment, name).copy() for name in ("states", "words", "escapes")}
    for name in data.draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=3)):
        values = parts[name]
        info = np.iinfo(values.dtype)
        low, high = (-(1 << 22) + 1, (1 << 22) - 1) if name == "escapes" else (info.min, info.max)
        values[data.draw(st.integers(0, values.size - 1))] = data.draw(st.integers(int(low), int(high)))
    try:
        found = _decode(Segment(**parts), level)
    except FormatError:
        return
    assert found.shape == points.shape


def test_a_change_of_one_word_is_seen() -> None:
    """Where all bits go through the tables; a raw bit above the lowest changes nothing but its own weight."""
    level = np.random.default_rng(4).integers(0, TABLE_LEVELS, 600).astype(np.uint8)
    points = follow(draw(600, level, 4, 1.0), 5, 8)
    segment = encode_segment(points, level, 5, transitions(8), sample_codec().prior.tables[0])
    for at in range(segment.words.size):
        words = segment.words.copy()
        words[at] ^= 1 << at % 16
        with pytest.raises(FormatError):
            _decode(replace(segment, words=words), level)


def test_other_tables_do_not_decode_it() -> None:
    segment, level, _ = _sample()
    with pytest.raises(FormatError):
        decode_segment(segment, level, transitions(8), sample_codec().prior.tables[1], "x")
