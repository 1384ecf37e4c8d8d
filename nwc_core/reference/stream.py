"""One matrix [m, n] coded by the reference, as bytes.

    tiers   how each was coded; none: all weights are zero, and nothing follows
    columns in each tier
    u8      lanes
    rows    exponents of the rows' scales, eighths of an octave:
              zigzag  the one in the middle
              u8      table, 255 where all are equal to it, and nothing follows
              varint  words, varint escapes, and a segment of one lane: the differences
    varint  chunks in a segment
    sizes of every segment: varint words, varint escapes
    segments: states, words, escapes

Latents are scalar points of one trellis state, chunk after chunk, channel after channel. Tiers and columns:
`nwc_core.reference.tiers`. Segments: `nwc_core.intvector`. Tables: `nwc_core.reference.tables`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core import intvector
from nwc_core.prior import RATE_SPAN, TABLE_LEVELS, ShapeTables
from nwc_core.rans import MAX_LANES, Segment, decode_segment, encode_segment
from nwc_core.reference.chunks import MIN_EXPONENT, chunk_count
from nwc_core.reference.recipe import CHUNK, MAX_GAIN
from nwc_core.reference.tables import LatentTables
from nwc_core.reference.tiers import Tier, Tiers, read_coded, read_columns
from nwc_core.trellis import transitions
from nwc_core.wire import ByteReader, ByteWriter

_SEGMENT_CHUNKS = 1 << 16  # a lane's state of 32 bits costs 0.001 bit per weight at this length
_LANE_LATENTS = 1 << 13  # and 0.004 at this one
_EQUAL = 255
# Latents for each byte of a stream, those that fill up a band included. Trained tables stay far below; made ones could
# claim almost a hundred times as many, and latents are slow to decode: a megabyte would take days.
MAX_LATENTS_PER_BYTE = 1024


@dataclass(frozen=True)
class ReferenceStream:
    """A parsed stream.

    Attributes:
        m, n: of the matrix.
        tiers: of columns; none for a matrix of zeros, where the other fields say nothing.
        exponents: [m] of the rows' scales.
        chunks: in a segment.
        segments: coded latents.
    """

    m: int
    n: int
    tiers: Tiers
    exponents: npt.NDArray[np.int32]
    chunks: int
    segments: list[Segment]

    @classmethod
    def zeros(cls, m: int, n: int) -> ReferenceStream:
        return cls(m, n, Tiers((), np.zeros(0, np.uint8)), np.zeros(0, np.int32), 1, [])

    @classmethod
    def encode(
        cls,
        tiers: Tiers,
        exponents: npt.NDArray[np.int32],
        latents: npt.NDArray[np.int32],
        tables: LatentTables,
    ) -> ReferenceStream:
        """Entropy-code latents [chunk_count(m, n), CHUNK], between -MAX_LATENT and MAX_LATENT."""
        chunks, lanes = _segmentation(len(latents))
        shape, segments = tables.of_tiers(tiers.coded), []
        for first in range(0, len(latents), chunks):
            part = latents[first : first + chunks]
            level = tiers.levels(first, len(part))
            segments.append(encode_segment(2 * part.reshape(-1), level, lanes, transitions(1), shape))
        return cls(exponents.size, tiers.column.size, tiers, exponents, chunks, segments)

    def latents(self, tables: LatentTables, where: str) -> npt.NDArray[np.int32]:
        """[chunk_count(m, n), CHUNK].

        Raises:
            FormatError: the stream is damaged, or was coded with other tables; `where` names the matrix.
        """
        total = chunk_count(self.m, self.n)
        latents, shape = np.empty((total, CHUNK), np.int32), tables.of_tiers(self.tiers.coded)
        for segment, first in zip(self.segments, range(0, total, self.chunks), strict=True):
            count = min(self.chunks, total - first)
            points = decode_segment(segment, self.tiers.levels(first, count), transitions(1), shape, where)
            latents[first : first + count] = (points >> 1).reshape(count, CHUNK)
        return latents

    def write(self, out: ByteWriter, tables: LatentTables) -> int:
        """Append the stream; returns how many of its bytes are not coded latents."""
        before = len(out)
        self.tiers.write(out)
        if not self.tiers.coded:
            return len(out) - before
        out.u8(self.segments[0].states.size)
        _write_exponents(out, self.exponents, tables.sets[MAX_GAIN])
        out.varint(self.chunks)
        side = len(out) - before
        return side + intvector.write_segments(out, self.segments)

    @classmethod
    def read(cls, reader: ByteReader, m: int, n: int, tables: LatentTables) -> ReferenceStream:
        """Take a stream, all that is left, apart and check it, latents excepted.

        Raises:
            FormatError: it is damaged.
        """
        nbytes = reader.remaining
        coded = read_coded(reader)
        if not coded:
            return cls.zeros(m, n)
        total = chunk_count(m, n)
        if CHUNK * total > MAX_LATENTS_PER_BYTE * nbytes:
            wanted = f"at most {MAX_LATENTS_PER_BYTE * nbytes} latents"
            raise reader.fail(f"{CHUNK * total} latents in {nbytes} bytes", wanted)
        tiers = Tiers(coded, read_columns(reader, n, len(coded)))
        lanes = reader.u8()
        if not 1 <= lanes <= MAX_LANES:
            raise reader.fail(f"{lanes} lanes", f"1 to {MAX_LANES}")
        exponents = _read_exponents(reader, m, tables.sets[MAX_GAIN])
        chunks = reader.varint()
        if chunks == 0:
            raise reader.fail("segments of no chunks", "at least one chunk")
        count = -(-total // chunks)
        if count * (2 + 4 * lanes) > reader.remaining:  # before a list of that length is made
            raise reader.fail(f"{count} segments of {lanes} lanes", f"what {reader.remaining} bytes can hold")
        sizes = [
            intvector.read_segment_sizes(reader, CHUNK * min(chunks, total - first))
            for first in range(0, total, chunks)
        ]
        segments = [intvector.read_segment(reader, lanes, *size) for size in sizes]
        return cls(m, n, tiers, exponents, chunks, segments)


def side_nbytes(column: npt.NDArray[np.uint8], exponents: npt.NDArray[np.int32], tables: LatentTables) -> int:
    """About how many bytes of a stream are not coded latents, states of the entropy coder included."""
    out = ByteWriter()
    tier = Tier(np.float32(1), 0, 0)
    Tiers((tier,) * (int(column.max()) + 1), column).write(out)
    _write_exponents(out, exponents, tables.sets[MAX_GAIN])
    chunks = chunk_count(exponents.size, column.size)
    in_segment, lanes = _segmentation(chunks)
    return len(out) + 4 + -(-chunks // in_segment) * (4 * lanes + 4)


def _segmentation(chunks: int) -> tuple[int, int]:
    """(chunks in a segment, lanes)."""
    in_segment = min(chunks, _SEGMENT_CHUNKS)
    return in_segment, int(np.clip(in_segment * CHUNK // _LANE_LATENTS, 1, MAX_LANES))


def _write_exponents(out: ByteWriter, exponents: npt.NDArray[np.int32], tables: ShapeTables) -> None:
    """The latents' own tables serve: whichever is as wide as the differences are."""
    centre = int(np.median(exponents))
    differences = exponents - np.int32(centre)
    out.zigzag(centre)
    if not differences.any():
        out.u8(_EQUAL)
        return
    at = np.clip(2 * differences + RATE_SPAN, 0, 2 * RATE_SPAN - 2)
    histogram = np.bincount(at, minlength=2 * RATE_SPAN)
    costs = (tables.rate[:TABLE_LEVELS].astype(np.float64) * histogram).sum(1)
    level = int(costs.argmin())
    flat = np.full(differences.size, level, np.uint8)
    segment = encode_segment(2 * differences, flat, 1, transitions(1), tables)
    out.u8(level)
    intvector.write_segment_sizes(out, segment)
    intvector.write_segment(out, segment)


def _read_exponents(reader: ByteReader, m: int, tables: ShapeTables) -> npt.NDArray[np.int32]:
    centre, level = reader.zigzag(), reader.u8()
    if not MIN_EXPONENT <= centre <= 0:
        raise reader.fail(f"row exponents around {centre}", f"between {MIN_EXPONENT} and 0")
    if level == _EQUAL:
        return np.full(m, centre, np.int32)
    if level >= TABLE_LEVELS:
        raise reader.fail(f"table {level}", f"below {TABLE_LEVELS}, or {_EQUAL}")
    segment = intvector.read_segment(reader, 1, *intvector.read_segment_sizes(reader, m))
    where = f"{reader.where}, row exponents"
    points = decode_segment(segment, np.full(m, level, np.uint8), transitions(1), tables, where)
    exponents = (points >> 1) + np.int32(centre)
    if exponents.min() < MIN_EXPONENT or exponents.max() > 0:
        raise reader.fail("a row exponent out of range", f"between {MIN_EXPONENT} and 0")
    return exponents
