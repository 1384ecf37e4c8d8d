"""Packed tables: they come back exactly, as the specification says, and what was not packed is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from codec_samples import sample_codec
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.codec import Codec
from nwc_core.codec_file import parse_codec_file
from nwc_core.errors import FormatError
from nwc_core.prior import MAX_HALF_WIDTH, TABLE_LEVELS, TOTAL, Prior
from nwc_core.prior_file import MAX_NUMBERS, pack_prior, unpack_prior

Content = npt.NDArray[np.uint8]


def _half(rng: np.random.Generator, width: int, q: int, concentration: float) -> list[int]:
    """Frequencies of k = 0 ... width and of the escape, none 0, of a whole table with the right sum."""
    pairs = width + q  # frequencies that count twice
    share = rng.dirichlet(np.full(pairs + 1, concentration))
    drawn = rng.multinomial((TOTAL - 2) // 2 - pairs, share)
    twice, rest = (drawn[:-1] + 1).tolist(), 2 * int(drawn[-1]) + 2
    if q:
        return [*twice, rest]
    escape = int(rng.integers(1, rest))
    return [rest - escape, *twice, escape]


@st.composite
def priors(draw: st.DrawFn) -> Prior:
    """Any valid tables: of widths that jump, of frequencies that no density has."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes, most = draw(st.integers(1, 3)), draw(st.integers(0, MAX_HALF_WIDTH))
    concentration = draw(st.sampled_from([0.01, 1.0, 100.0]))
    width = rng.integers(draw(st.sampled_from([0, most])), most + 1, (shapes, TABLE_LEVELS)).astype(np.uint8)
    halves = [_half(rng, int(k), q, concentration) for k in width.reshape(-1) for q in (0, 1)]
    return Prior(width, np.concatenate(halves).astype(np.uint16))


def _same(one: Prior, other: Prior) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in ((one.half_width, other.half_width), (one.halves, other.halves))
    )


@settings(deadline=None, max_examples=30)
@given(priors())
def test_any_valid_tables_come_back(prior: Prior) -> None:
    packed = pack_prior(prior)
    again = unpack_prior(packed, "file")
    assert _same(again, prior)
    assert len(again.tables) == prior.shapes  # and pass the checks of tables
    assert pack_prior(again).tobytes() == packed.tobytes()


def _by_the_specification(packed: bytes) -> Prior:
    """What a stranger would write from SPEC.md, number by number."""
    content = zstandard.ZstdDecompressor().decompress(packed)
    shapes, at = content[0], 1
    width = np.zeros((shapes, TABLE_LEVELS), np.uint8)
    for shape in range(shapes):
        before = 0
        for level in range(TABLE_LEVELS):
            before = width[shape, level] = (before + content[at]) % 256
            at += 1
    count = (len(content) - at) // 2
    zs = [content[at + i] + 256 * content[at + count + i] for i in range(count)]
    numbers = iter([z // 2 if z % 2 == 0 else -(z + 1) // 2 for z in zs])
    escape = np.zeros((shapes, TABLE_LEVELS, 2), int)
    for shape in range(shapes):
        for level in range(TABLE_LEVELS):
            for q in (0, 1):
                escape[shape, level, q] = next(numbers) + (escape[shape, level - 1, q] if level else 2)
    less: dict[tuple[int, int, int], int] = {}
    for n in range(2, 2 * MAX_HALF_WIDTH + 2):
        for shape in range(shapes):
            for level in range(TABLE_LEVELS):
                if n <= 2 * int(width[shape, level]) + 1:
                    less[shape, level, n] = next(numbers)
    assert next(numbers, None) is None
    halves: list[int] = []
    for shape in range(shapes):
        before_f: dict[int, int] = {}
        for level in range(TABLE_LEVELS):
            last = 2 * int(width[shape, level]) + 1
            f = {n: _prediction(n, before_f) + less[shape, level, n] for n in range(2, last + 1)}
            f[0] = 2**14 - int(escape[shape, level, 0]) - 2 * sum(f[n] for n in f if n % 2 == 0)
            f[1] = 2**13 - int(escape[shape, level, 1]) // 2 - sum(f[n] for n in f if n % 2 == 1)
            for q in (0, 1):
                halves += [f[n] for n in range(q, last + 1, 2)] + [int(escape[shape, level, q])]
            before_f = f
    return Prior(width, np.array(halves, np.uint16))


def _prediction(n: int, before: dict[int, int]) -> int:
    u = 1024
    i, t = divmod(939 * n, u)
    f = [before.get(i + tap, 0) for tap in (-1, 0, 1, 2)]
    c = -t * (t - u) * (t - 2 * u) * f[0] + 3 * (t + u) * (t - u) * (t - 2 * u) * f[1]
    c += -3 * (t + u) * t * (t - 2 * u) * f[2] + (t + u) * t * (t - u) * f[3]
    return min(max((939 * c + 3 * 2**40) // (6 * 2**40), 1), 2**14)


@settings(deadline=None, max_examples=3)
@given(priors())
def test_a_decoder_written_from_the_specification_agrees(prior: Prior) -> None:
    assert _same(_by_the_specification(pack_prior(prior).tobytes()), prior)


def test_it_reads_the_shipped_codec_too() -> None:
    codec = Codec.load("default")
    packed = parse_codec_file(codec.to_bytes(), "default").arrays["prior"]
    assert _same(_by_the_specification(packed.tobytes()), codec.prior)


def test_smooth_tables_shrink() -> None:
    prior = Codec.load("default").prior
    assert pack_prior(prior).nbytes < 0.1 * prior.halves.nbytes
    # A prediction of nothing would leave as much as Zstandard makes of the tables themselves.
    plain = zstandard.ZstdCompressor(level=19).compress(prior.halves.tobytes())
    assert pack_prior(prior).nbytes < 0.25 * len(plain)


def test_tables_that_would_not_come_back_are_not_packed() -> None:
    prior = sample_codec().prior
    halves = prior.halves.copy()
    halves[0] += 1
    with pytest.raises(FormatError, match="sum 16385"):
        pack_prior(Prior(prior.half_width, halves))
    widest = np.full((5, TABLE_LEVELS), MAX_HALF_WIDTH, np.uint8)
    with pytest.raises(FormatError, match=f"5 shapes, 81280 numbers; wanted at most 32 and {MAX_NUMBERS}"):
        pack_prior(Prior(widest, np.ones(2 * 128 * widest.size, np.uint16)))
    narrow = np.zeros((33, TABLE_LEVELS), np.uint8)
    with pytest.raises(FormatError, match="33 shapes"):
        pack_prior(Prior(narrow, np.ones(2 * 2 * narrow.size, np.uint16)))


CONTENT = np.frombuffer(zstandard.ZstdDecompressor().decompress(pack_prior(sample_codec().prior).tobytes()), np.uint8)
SHAPES = sample_codec().prior.shapes
FIRST = 1 + SHAPES * TABLE_LEVELS
COUNT = (CONTENT.size - FIRST) // 2


def _frame(content: Content | bytes) -> Content:
    return np.frombuffer(zstandard.ZstdCompressor().compress(bytes(content)), np.uint8)


def _numbers(change: Callable[[npt.NDArray[np.int64]], None]) -> Content:
    """The frame with its numbers changed: escapes [SHAPES, 64, 2], then points."""
    low, high = CONTENT[FIRST:].reshape(2, COUNT).astype(np.int64)
    zigzag = low | high << 8
    numbers = zigzag >> 1 ^ -(zigzag & 1)
    change(numbers)
    zigzag = numbers << 1 ^ numbers >> 63
    planes = np.stack([zigzag & 255, zigzag >> 8]).astype(np.uint8)
    return _frame(CONTENT[:FIRST].tobytes() + planes.tobytes())


def _with(at: int, value: int) -> Content:
    content = CONTENT.copy()
    content[at] = value
    return _frame(content)


def _add(at: int, amount: int) -> Callable[[npt.NDArray[np.int64]], None]:
    def change(numbers: npt.NDArray[np.int64]) -> None:
        numbers[at] += amount

    return change


def _set(value: int) -> Callable[[npt.NDArray[np.int64]], None]:
    return lambda numbers: numbers.__setitem__(slice(None), value)


def test_the_pieces_of_these_tests_are_right() -> None:
    assert _same(unpack_prior(_numbers(lambda numbers: None), "file"), sample_codec().prior)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (_frame(b""), "with a Zstandard frame of 0"),
        (_frame(b"\0"), "1 bytes for 0 shapes"),
        (_frame(b"\1" + bytes(TABLE_LEVELS - 1)), "64 bytes for 1 shapes"),
        (_frame(b"\x20" + bytes(300)), "301 bytes for 32 shapes; wanted the number of shapes, 1 to 32"),
        (_frame(b"\x21" + bytes(33 * TABLE_LEVELS)), "for 33 shapes"),
        (_with(0, SHAPES + 1), "bytes of numbers; wanted"),
        (_with(FIRST - 1, 1), "bytes of numbers; wanted"),
        (_with(1, 255), "half width 2"),
        (_frame(CONTENT[:-2]), f"{2 * COUNT - 2} bytes of numbers; wanted {2 * COUNT}"),
        (_frame(CONTENT.tobytes() + b"\0"), f"{2 * COUNT + 1} bytes of numbers"),
        (_frame(b"\x20" + (b"\x7e" + bytes(TABLE_LEVELS - 1)) * 32), f"at most {MAX_NUMBERS}"),
        (_frame(bytes(1 << 20)), "Zstandard frame of 1048576"),
        (
            np.frombuffer(b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\1\0\0", np.uint8),
            "frame of 4611",
        ),
        (np.frombuffer(_frame(CONTENT).tobytes() + b"\0", np.uint8), "damaged Zstandard frame"),
        (np.frombuffer(_frame(CONTENT).tobytes()[:-1], np.uint8), "damaged Zstandard frame"),
        (np.frombuffer(b"no frame", np.uint8), "damaged Zstandard frame"),
        (
            np.frombuffer(zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT.tobytes()), np.uint8),
            "of -1",
        ),
        # Escapes: 0, and odd where all other frequencies come in pairs.
        (_numbers(_add(0, -1 - TOTAL)), "shape 0, level 0: found a frequency below 1"),
        (_numbers(_add(1, 1)), "shape 0, level 0: found sum 16383"),
        (_numbers(_add(2 * TABLE_LEVELS * SHAPES - 1, 1)), f"shape {SHAPES - 1}, level 63: found sum 16383"),
        # A point so rare that it is gone, so frequent that nothing is left for k = 0.
        (_numbers(_add(-1, -TOTAL)), f"shape {SHAPES - 1}, level 63: found a frequency below 1"),
        (_numbers(_add(-1, TOTAL)), f"shape {SHAPES - 1}, level 63: found a frequency below 1"),
        (_numbers(_set(32767)), "shape 0, level 0: found a frequency below 1"),
        (_numbers(_set(-32768)), "shape 0, level 0: found a frequency below 1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_damage_is_refused(frame: Content, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=words) as caught:
            unpack_prior(frame, "my.codec, prior")
        assert caught.value.where.startswith("my.codec, prior")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, CONTENT.size - 1), st.integers(0, 255))
def test_a_changed_byte_gives_an_error_or_valid_tables(at: int, value: int) -> None:
    try:
        prior = unpack_prior(_with(at, value), "file")
    except FormatError:
        return
    assert len(prior.tables) == prior.shapes
    assert _same(unpack_prior(pack_prior(prior), "file"), prior)
