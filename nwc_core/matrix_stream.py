"""One coded matrix [m, n] as bytes.

    u8      shape of the prior's tables
    u8      log2 of the number of trellis states
    u8      transform, 0 is the identity
    u8      number of bases, then each as in `nwc_core.basis`
    u8      scan: 0 along rows, 1 down the columns of tiles (see `nwc_core.column_tiles`)
    u8      lanes
    f32     step
    vector  row step exponents, then column step exponents (eighths of an octave)
    u8      whether scales are absolute: 1 rows, 2 columns, 3 both; otherwise they are in units of the axis's own steps
    scales  see `nwc_core.scales`
    varint  outer lines (rows or columns, as scanned) in a segment
    sizes of every segment: varint words, varint escapes
    segments: states, words, escapes

A segment is decoded on its own: its trellises start in state 0, in scan 1 every column's. Vectors and segments:
`nwc_core.intvector`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import intvector, steps
from nwc_core.basis import COLUMNS, ROWS, Basis
from nwc_core.blas import one_thread
from nwc_core.column_tiles import to_tiles
from nwc_core.dequantise import Weights
from nwc_core.errors import FormatError
from nwc_core.exact import Inexact
from nwc_core.fused import Lines, decode_lines, decode_tiles, whole_steps
from nwc_core.prior import Prior
from nwc_core.rans import MAX_LANES, Decoder, Segment
from nwc_core.scales import Scales, levels_of
from nwc_core.synthesis import MAX_STEP_RANGE, Synthesis, piece_lines
from nwc_core.threads import map_threads
from nwc_core.trellis import STATES, transitions
from nwc_core.wire import ByteReader, ByteWriter

MAX_BASES = 2
Transforms = list[npt.NDArray[np.int16]]


@dataclass(frozen=True)
class MatrixHeader:
    """Everything that is known before a weight is decoded.

    Row steps are step * 2^(exponent / 8); so are columns'. Where scales of an axis are `absolute` (rows, columns), levels
    fall as its exponents rise.
    """

    m: int
    n: int
    shape: int
    n_states: int
    transform: int
    bases: tuple[Basis, ...]
    by_columns: bool
    lanes: int
    step: np.float32
    row_exponent: npt.NDArray[np.int32]
    column_exponent: npt.NDArray[np.int32]
    absolute: tuple[bool, bool]
    scales: Scales
    lines: int

    @property
    def outer(self) -> int:
        """How many lines the scan goes through."""
        return self.n if self.by_columns else self.m

    def segments(self) -> list[tuple[int, int]]:
        """Outer lines [first, last) of each segment."""
        return [(first, min(first + self.lines, self.outer)) for first in range(0, self.outer, self.lines)]

    @cached_property
    def level_axes(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """[m] and [n] numbers whose sums, clamped, are the levels."""
        rows, columns = self.scales.axes()
        return rows - self.row_exponent * self.absolute[0], columns - self.column_exponent * self.absolute[1]

    @cached_property
    def steps(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """[m] and [n] numbers whose products are the steps."""
        return self.step * steps.power(self.row_exponent), steps.power(self.column_exponent)

    def levels(self, first: int, last: int) -> npt.NDArray[np.uint8]:
        """Flat levels of outer lines [first, last), a segment or whole lines of one, in the order of the scan."""
        rows, columns = self.level_axes
        if self.by_columns:
            return to_tiles(levels_of(columns[first:last], rows), self.lanes)
        return levels_of(rows[first:last], columns).reshape(-1)

    @property
    def column(self) -> int:
        """Points between fresh starts of a lane's trellis: see `nwc_core.rans.encode_segment`."""
        return self.m if self.by_columns else 0

    def synthesis(self, transforms: Transforms) -> Synthesis:
        """What turns points into weights."""
        matrix = transforms[self.transform - 1] if self.transform else None
        return Synthesis(self.step, self.row_exponent, self.column_exponent, self.bases, matrix)

    def write(self, out: ByteWriter, prior: Prior) -> None:
        out.u8(self.shape)
        out.u8(self.n_states.bit_length() - 1)
        out.u8(self.transform)
        out.u8(len(self.bases))
        for basis in self.bases:
            basis.write(out, prior)
        out.u8(int(self.by_columns))
        out.u8(self.lanes)
        out.f32(float(self.step))
        intvector.write(out, self.row_exponent.astype(np.int64), prior)
        intvector.write(out, self.column_exponent.astype(np.int64), prior)
        out.u8(self.absolute[0] + 2 * self.absolute[1])
        self.scales.write(out, prior)
        out.varint(self.lines)

    @classmethod
    def read(cls, reader: ByteReader, m: int, n: int, prior: Prior, transforms: Transforms) -> MatrixHeader:
        shape, states, transform, count = (reader.u8() for _ in range(4))
        if count > MAX_BASES:
            raise reader.fail(f"{count} bases", f"at most {MAX_BASES}")
        bases = tuple(Basis.read(reader, m, n, prior) for _ in range(count))
        if 2 * (entries := sum(basis.size * basis.rank for basis in bases)) > m * n:
            raise reader.fail(f"bases of {entries} entries for [{m}, {n}]", f"{m * n // 2} at most")
        scan, lanes, step = reader.u8(), reader.u8(), reader.f32()
        if shape >= prior.shapes:
            raise reader.fail(f"shape {shape}", f"below {prior.shapes}, which this codec has")
        if states > 8 or 1 << states not in STATES:
            raise reader.fail(f"2^{states} trellis states", f"one of {', '.join(map(str, STATES))}")
        if transform > len(transforms) or (transform and n % transforms[transform - 1].shape[0]):
            raise reader.fail(
                f"transform {transform} for {n} columns", f"one of this codec's {len(transforms)} that fits"
            )
        if scan > 1 or not 1 <= lanes <= MAX_LANES:
            raise reader.fail(f"scan {scan}, {lanes} lanes", f"scan 0 or 1, 1 to {MAX_LANES} lanes")
        if not (math.isfinite(step) and steps.MIN_STEP <= step <= steps.MAX_STEP):
            raise reader.fail(f"step {step}", f"between {steps.MIN_STEP} and {steps.MAX_STEP}")
        exponents = [
            intvector.read(reader, size, prior, what) for size, what in ((m, "row steps"), (n, "column steps"))
        ]
        if any(np.abs(exponent).max(initial=0) > steps.MAX_EXPONENT for exponent in exponents):
            raise reader.fail("a step exponent out of range", f"at most {steps.MAX_EXPONENT} either way")
        least, most = (sum(int(pick(exponent)) for exponent in exponents) / 8 for pick in (np.min, np.max))
        bound = steps.MAX_LOG2_STEP
        if not -bound <= math.log2(step) + least <= math.log2(step) + most <= bound:
            found = f"steps from {step} * 2^{least} to {step} * 2^{most}"
            raise reader.fail(found, f"from 2^-{bound} to 2^{bound}")
        mixed = {basis.axis for basis in bases} | ({COLUMNS} if transform else set())
        for axis, exponent, what in ((ROWS, exponents[0], "row"), (COLUMNS, exponents[1], "column")):
            if axis in mixed and np.ptp(exponent) > MAX_STEP_RANGE:
                raise reader.fail(
                    f"{what} steps too far apart to be mixed", f"at most {MAX_STEP_RANGE} eighths of an octave"
                )
        absolute = reader.u8()
        if absolute > 3:
            raise reader.fail(f"scales of kind {absolute}", "0 to 3")
        scales = Scales.read(reader, m, n, prior)
        lines = reader.varint()
        if lines == 0:
            raise reader.fail("segments of no lines", "at least one line")
        return cls(
            m=m,
            n=n,
            shape=shape,
            n_states=1 << states,
            transform=transform,
            bases=bases,
            by_columns=bool(scan),
            lanes=lanes,
            step=np.float32(step),
            row_exponent=exponents[0],
            column_exponent=exponents[1],
            absolute=(bool(absolute & 1), bool(absolute & 2)),
            scales=scales,
            lines=lines,
        )


@dataclass(frozen=True)
class MatrixStream:
    """A header and its coded segments."""

    header: MatrixHeader
    segments: list[Segment]

    def write(self, out: ByteWriter, prior: Prior) -> int:
        """Append the stream; returns how many of its bytes are not coded weights."""
        before = len(out)
        self.header.write(out, prior)
        side = len(out) - before
        return side + intvector.write_segments(out, self.segments)

    @classmethod
    def read(cls, reader: ByteReader, m: int, n: int, prior: Prior, transforms: Transforms) -> MatrixStream:
        header = MatrixHeader.read(reader, m, n, prior, transforms)
        inner = m if header.by_columns else n
        count = -(-header.outer // header.lines)
        if count * (2 + 4 * header.lanes) > reader.remaining:  # before a list of that length is made
            raise reader.fail(f"{count} segments of {header.lanes} lanes", f"what {reader.remaining} bytes can hold")
        sizes = [intvector.read_segment_sizes(reader, (last - first) * inner) for first, last in header.segments()]
        return cls(header, [intvector.read_segment(reader, header.lanes, *size) for size in sizes])

    def points(self, prior: Prior, where: str, threads: int = 1) -> npt.NDArray[np.int32]:
        """[m, n] quantisation points; segments are decoded on `threads` threads."""
        points = np.empty((self.header.m, self.header.n), np.int32)
        self._decode_into(points, prior, where, threads)
        return points

    def weights_into(self, out: Weights, prior: Prior, transforms: Transforms, where: str, threads: int = 1) -> None:
        """Decode into `out` [m, n], float32 or the bits of bfloat16; segments are decoded on `threads` threads.

        Raises:
            FormatError: the stream is damaged, or was coded with other tables; `where` names it.
        """
        synthesis = self.header.synthesis(transforms)
        if not synthesis.mixed:
            self._decode_into(out, prior, where, threads)
            return
        try:
            with one_thread():  # sums are exact on any number, but it is the segments that have the threads
                synthesis.prepare()
                if (COLUMNS if self.header.by_columns else ROWS) in synthesis.mixed:
                    # Nothing is known before all points are.
                    synthesis.place_all(self.points(prior, where, threads), out, threads)
                else:
                    self._each_segment(
                        lambda decoder, span: self._mix(decoder, span, synthesis, out), prior, where, threads
                    )
        except Inexact:
            raise FormatError(where, "points too large for its bases", "sums below 2^53") from None

    def _decode_into(self, out: Lines, prior: Prior, where: str, threads: int) -> None:
        """Fill `out` [m, n] with points, or with weights that nothing mixes."""
        by_columns = self.header.by_columns
        self._each_segment(
            lambda decoder, span: self._fill(decoder, span, out[:, span] if by_columns else out[span]),
            *(prior, where, threads),
        )

    def _each_segment(self, work: Callable[[Decoder, slice], None], prior: Prior, where: str, threads: int) -> None:
        """Call work(decoder, outer lines) for each segment."""
        header, tables = self.header, prior.tables[self.header.shape]
        tables.slots, header.level_axes, header.steps  # noqa: B018  built once here, not by every thread
        spans = header.segments()

        def run(index: int) -> None:
            decoder = Decoder(self.segments[index], transitions(header.n_states), tables, where)
            work(decoder, slice(*spans[index]))
            decoder.finish()

        map_threads(run, range(len(spans)), threads)

    def _fill(self, decoder: Decoder, span: slice, part: Lines) -> None:
        """Decode outer lines `span`, the next ones of a segment; scanned by columns, all of it."""
        (rows, columns), (row_step, factor) = self.header.level_axes, self.header.steps
        if self.header.by_columns:
            decode_tiles(decoder, part, (rows, columns[span]), (row_step, factor[span]))
        else:
            decode_lines(decoder, part, (rows[span], columns), (row_step[span], factor))

    def _mix(self, decoder: Decoder, span: slice, synthesis: Synthesis, out: Weights) -> None:
        """Decode a segment whose outer lines are not mixed with others, and undo what mixes each, some lines at a time."""
        header = self.header
        if header.by_columns:
            columns = np.empty((header.m, span.stop - span.start), np.int32)
            self._fill(decoder, span, columns)
            width = piece_lines(header.m)
            for left in range(0, columns.shape[1], width):
                some = slice(span.start + left, min(span.start + left + width, span.stop))
                synthesis.place(columns, slice(None), some, out, left)
            return
        lines = whole_steps(piece_lines(header.n), header.n, header.lanes)
        buffer = np.empty((min(lines, span.stop - span.start), header.n), np.int32)
        for first in range(span.start, span.stop, lines):
            piece = slice(first, min(first + lines, span.stop))
            points = buffer[: piece.stop - first]
            self._fill(decoder, piece, points)
            synthesis.place(points, piece, slice(None), out)
