"""A matrix's own orthonormal basis: a product of Householder reflections, coded with the matrix.

Rows of embeddings, and the linear layers of many models, concentrate in a few directions that no scale per row and
column can express. A basis turns the first r coordinates into those directions. It is the product

    Q = H_1 H_2 ... H_r,   H_j = I - 2 u_j u_j' / (u_j' u_j),   u_j zero above its j-th entry

of reflections whose vectors are small integers. However coarse they are, Q is orthonormal: a coarse vector only points
a little off the best direction, so a few bits per entry do, and the error of the coefficients stays the error of the
weights. Q costs r * size entries of side information and 2 r multiplications per weight.

Decoding applies Q' = I - U B, B = T' U' in the compact form of Schreiber and Van Loan (1989), with B rounded to units of
2^-SHIFT. All sums are sums of integers in float64 that stay below 2^53, so they are exact, whatever adds them in
whatever order: a fast matrix product on any device gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import intvector
from nwc_core.blas import one_thread
from nwc_core.exact import LIMIT, LIMIT_SHORT, Integers, check_exact
from nwc_core.kernels import kernel
from nwc_core.mixing_kernels import AT_ONCE, aligned, most_rank
from nwc_core.prior import TABLE_LEVELS, Prior
from nwc_core.rans import Segment, decode_segment, encode_segment
from nwc_core.trellis import transitions
from nwc_core.vector import WIDTH
from nwc_core.wire import ByteReader, ByteWriter

COLUMNS, ROWS = 0, 1
MAX_RANK = 128  # decoding costs 2 r multiplications per weight
SHIFT = 24
_MAX_ENTRY = 1 << 16  # of a vector; finer ones would gain nothing
# Vectors up to this size stay in a core's cache while rows pass; beyond, a product over many rows at once is quicker.
_KERNEL_NBYTES = 1 << 19
_DENSE = 32  # up to this size one product with all of U B is the quickest


@dataclass(frozen=True, eq=False)
class Mixing:
    """A basis as decoding applies it: Q' = I - U B / 2^SHIFT.

    Attributes:
        axis: of the basis.
        u: [size, r] integers, the vectors as columns.
        b: [r, size] integers.
    """

    axis: int
    u: npt.NDArray[np.float64]
    b: npt.NDArray[np.float64]

    @cached_property
    def growth(self) -> float:
        """By how much applying it can enlarge the greatest magnitude."""
        return float(1 << SHIFT) + float((np.abs(self.u).sum(0) @ np.abs(self.b)).max())

    def turned(self, values: Integers, peak: float) -> npt.NDArray[np.float64]:
        """What integers [m, n] lose as rows times Q', or Q times columns: the result is values * 2^SHIFT - turned; exact.

        Args:
            values: in float64, or in float32 where that holds them.
            peak: no magnitude is above it.

        Raises:
            Inexact: the integers are too large.
        """
        check_exact(values, peak, self.growth)
        # Sums with the vectors alone often fit float32, which takes half the time.
        short = values.dtype == np.float32 and self.is_short(peak)
        u: Integers = self._u_short if short else self.u
        lost: npt.NDArray[np.float64]
        if self.axis == ROWS:
            lost = self.b.T @ (u.T @ values)
            return lost
        rows = values.reshape(-1, self.u.shape[0])
        # In one product zeros get the other sign: weights that are zero come out as +0 there.
        lost = -(rows @ self._dense) if self.u.shape[0] <= _DENSE else (rows @ u) @ self.b
        return lost.reshape(values.shape)

    @cached_property
    def _reach(self) -> float:
        return float(np.abs(self.u).sum(0).max())

    @cached_property
    def _u_short(self) -> npt.NDArray[np.float32]:
        return self.u.astype(np.float32)

    @cached_property
    def for_kernels(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
        """U and B as `nwc_core.mixing_kernels` take them; None where sizes do not fit those, or products do better."""
        size, rank = self.u.shape
        fits = size > _DENSE and size % (AT_ONCE if self.axis == ROWS else WIDTH) == 0
        if not fits or self.u.nbytes > _KERNEL_NBYTES or rank > most_rank():
            return None
        if self.axis == COLUMNS:
            return aligned(self.u.T), aligned(self.b)
        rest = ((0, 0), (0, -rank % AT_ONCE))
        return aligned(np.pad(self.u, rest)), aligned(np.pad(self.b.T, rest))

    @cached_property
    def short_for_kernels(self) -> npt.NDArray[np.float32]:
        """The vectors as rows, for points whose products with them are exact in float32."""
        return aligned(self._u_short.T)

    def is_short(self, peak: float) -> bool:
        """Whether products of the vectors with integers up to `peak` are exact in float32."""
        return peak * self._reach < LIMIT_SHORT

    def prepare(self) -> None:
        """Compute what is kept, before several threads would."""
        self.growth, self._reach, self.short_for_kernels, self.for_kernels  # noqa: B018
        if self.u.shape[0] <= _DENSE:
            self._dense  # noqa: B018

    @cached_property
    def _dense(self) -> npt.NDArray[np.float64]:
        negative: npt.NDArray[np.float64] = -(self.u @ self.b)
        return negative


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal basis of one axis.

    Attributes:
        axis: COLUMNS, of groups of `size` neighbouring columns, or ROWS, of all `size` rows.
        vectors: [size, r] int32, the u_j as columns, each zero above row j and not zero altogether.
    """

    axis: int
    vectors: npt.NDArray[np.int32]

    @property
    def size(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def rank(self) -> int:
        return int(self.vectors.shape[1])

    def mixing(self) -> Mixing:
        """What decoding multiplies by; twice the memory of the vectors in float64, so held no longer than it is used."""
        u = self.vectors.astype(np.float64)
        b = np.rint(_compact(np.ascontiguousarray(u.T), u.T @ u) * float(1 << SHIFT))
        return Mixing(self.axis, u, b)

    def analyse(self, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Coefficients [m, n] of weights [m, n]: rows times Q, or Q' times columns."""
        mixing = self.mixing()
        u, b = mixing.u.astype(np.float32), (mixing.b * 2.0**-SHIFT).astype(np.float32)
        coefficients: npt.NDArray[np.float32]
        with one_thread():  # for the same coefficients everywhere; decoding's sums are exact
            if self.axis == ROWS:
                coefficients = np.subtract(weight, u @ (b @ weight), dtype=np.float32)
            else:
                rows = weight.reshape(-1, self.size)
                coefficients = np.subtract(rows, (rows @ b.T) @ u.T, dtype=np.float32)
        return coefficients.reshape(weight.shape)

    def write(self, out: ByteWriter, prior: Prior) -> None:
        """u8 axis, varint size, varint r, u8 shape, a u8 level for each vector, then their entries as one segment."""
        entries = [self.vectors[j:, j].astype(np.int64) for j in range(self.rank)]
        costs = intvector.table_costs(entries, prior)  # [shapes, r, levels]
        shape = int(costs.min(2).sum(1).argmin())
        levels = costs[shape].argmin(1)
        out.u8(self.axis)
        out.varint(self.size)
        out.varint(self.rank)
        out.u8(shape)
        out.raw(levels.astype(np.uint8).tobytes())
        points = (2 * np.concatenate(entries)).astype(np.int32)
        level = np.repeat(levels, [vector.size for vector in entries]).astype(np.uint8)
        segment = encode_segment(points, level, 1, transitions(1), prior.tables[shape])
        intvector.write_segment_sizes(out, segment)
        intvector.write_segment(out, segment)

    @classmethod
    def read(cls, reader: ByteReader, m: int, n: int, prior: Prior) -> Basis:
        """Read a basis of a matrix [m, n]."""
        axis, size, rank = reader.u8(), reader.varint(), reader.varint()
        sizes = {COLUMNS: size >= 2 and n % size == 0, ROWS: size == m}
        if not sizes.get(axis, False):
            wanted = f"axis 0 and a divisor of {n} from 2 up, or axis 1 and {m}"
            raise reader.fail(f"a basis of size {size} for axis {axis} of [{m}, {n}]", wanted)
        most = most_vectors(size, m * n)
        if not 1 <= rank <= most:
            raise reader.fail(f"{rank} vectors of {size} for [{m}, {n}]", f"1 to {most}")
        shape, levels = reader.u8(), np.frombuffer(reader.raw(rank), np.uint8)
        if shape >= prior.shapes or int(levels.max()) >= TABLE_LEVELS:
            raise reader.fail(f"table shape {shape}, level {levels.max()}", f"below {prior.shapes} and {TABLE_LEVELS}")
        lengths = size - np.arange(rank)
        segment = intvector.read_segment(reader, 1, *intvector.read_segment_sizes(reader, int(lengths.sum())))
        level = np.repeat(levels, lengths)
        vectors = cls._unpack(segment, level, size, rank, prior, shape, reader.where)
        peak = int(np.abs(vectors).max())
        if peak >= _MAX_ENTRY or size * peak**2 >= LIMIT:
            wanted = f"below {_MAX_ENTRY}, with squares that sum to less than 2^53"
            raise reader.fail(f"a basis entry of {peak} in vectors of {size}", wanted)
        if not vectors.any(0).all():
            raise reader.fail(f"basis vector {int(np.argmin(vectors.any(0)))}, all zeros", "one that is not")
        return cls(axis, vectors)

    @staticmethod
    def _unpack(
        segment: Segment, level: npt.NDArray[np.uint8], size: int, rank: int, prior: Prior, shape: int, where: str
    ) -> npt.NDArray[np.int32]:
        points = decode_segment(segment, level, transitions(1), prior.tables[shape], f"{where}, basis")
        vectors = np.zeros((rank, size), np.int32)
        vectors[np.arange(size)[None, :] >= np.arange(rank)[:, None]] = points >> 1
        return np.ascontiguousarray(vectors.T)


def most_vectors(size: int, weights: int) -> int:
    """The largest rank of a basis of `size` in a matrix of so many weights.

    Half as many entries as weights: more could not pay, and a crafted stream could make decoding slow with them.
    """
    return min(size - 1, MAX_RANK, weights // (2 * size))


@kernel
def _compact(vectors, gram):  # type: ignore[no-untyped-def]
    """T' U' [r, size] of the product of reflections I - U T U', every sum in one fixed order; vectors are U'."""
    rank, size = vectors.shape
    t = np.zeros((rank, rank))
    for j in range(rank):
        tau = 2.0 / gram[j, j]
        t[j, j] = tau
        for i in range(j):
            total = 0.0
            for k in range(i, j):
                total += t[i, k] * gram[k, j]
            t[i, j] = -tau * total
    out = np.zeros((rank, size))
    for i in range(rank):
        for k in range(i + 1):
            for column in range(size):
                out[i, column] += t[k, i] * vectors[k, column]
    return out
