"""One coded tensor as bytes: everything needed to decode it, the shared codec file excepted.

Wire format, version 1 (fields as in `nwc_core.wire`):

    u8      version (1)
    u8      coder: 0 raw, 1 zstd, 2 nwc, 3 float, 4 nwc-delta, 5 exact-delta
    u8      dtype: position in DTYPE_CODES
    u8      rank, at most 64
    varint  each dimension
    bytes   body, to the end

Body of raw: the elements, little-endian, in row-major order. Body of zstd: see `nwc_core.lossless`. Body of nwc: see
`nwc_core.codec`. Body of float: see `nwc_core.floats.body`. Bodies of the deltas: see
`nwc_core.delta`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nwc_core.dtypes import DTYPES, DType
from nwc_core.errors import VersionError
from nwc_core.wire import ByteReader, ByteWriter

VERSION = 1
DELTA, EXACT_DELTA = "nwc-delta", "exact-delta"
CODERS = ("raw", "zstd", "nwc", "float", DELTA, EXACT_DELTA)
LOSSY_CODERS = ("nwc", DELTA)
WITH_BASE = (DELTA, EXACT_DELTA)
# Append only: the position is what streams store.
DTYPE_CODES = (
    *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
    *("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64"),
)
MAX_RANK = 64
# A weight coded by nwc takes at least log2(2^14 / (2^14 - 1)) bit, so a byte holds at most 90,848 of them. A block of
# Zstandard takes at least 3 bytes and holds at most 128 KiB.
_MAX_WEIGHTS_PER_BYTE = 1 << 17
_MAX_ZSTD_RATIO = (1 << 17) // 3 + 1
_MAX_ELEMENTS = 1 << 48  # far above any tensor; keeps products of hostile dimensions inside 63 bits


def most_elements(coder: str, dtype: DType, nbytes: int) -> int:
    """How many elements so many coded bytes can hold at most.

    A damaged or hostile shape that claims more is refused before memory is asked for.
    """
    if coder == EXACT_DELTA:  # of any size where the tensor is its base, which holds the elements
        return _MAX_ELEMENTS
    if coder in LOSSY_CODERS:
        return _MAX_WEIGHTS_PER_BYTE * nbytes
    if coder == "float":  # at least one bit of each is stored as it is
        return 8 * nbytes
    return nbytes * (_MAX_ZSTD_RATIO if coder == "zstd" else 1) // dtype.itemsize


@dataclass(frozen=True)
class EncodedTensor:
    """A coded tensor.

    Attributes:
        dtype: element type of the original and of the decoded tensor.
        shape: its shape.
        coder: "raw", "zstd", "float" (all three lossless) or "nwc"; or one with a base, "nwc-delta" or "exact-delta".
        body: the coder's own bytes.
        side_nbytes: how many bytes of the body are side information rather than coded weights (0 if unknown).
        mse: mean squared error against the original, known only right after encoding; not part of the bytes.
    """

    dtype: DType
    shape: tuple[int, ...]
    coder: str
    body: bytes = field(repr=False)
    side_nbytes: int = field(default=0, compare=False)
    mse: float | None = field(default=None, compare=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of `to_bytes()`."""
        return len(self._header()) + len(self.body)

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / numel: header and side information included. Infinite for an empty tensor."""
        return 8 * self.nbytes / self.numel if self.numel else math.inf

    def _header(self) -> bytes:
        out = ByteWriter()
        out.u8(VERSION)
        out.u8(CODERS.index(self.coder))
        out.u8(DTYPE_CODES.index(self.dtype.name))
        out.u8(len(self.shape))
        for size in self.shape:
            out.varint(size)
        return out.getvalue()

    def to_bytes(self) -> bytes:
        return self._header() + self.body

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, where: str = "coded tensor") -> EncodedTensor:
        """Parse `to_bytes()`; `where` names the tensor in errors.

        The body is not looked into here; decoding checks it.

        Raises:
            VersionError: written by a newer nwc.
            FormatError: not a coded tensor.
        """
        reader = ByteReader(data, where)
        version = reader.u8()
        if version != VERSION:
            raise VersionError(where, f"version {version}", f"version {VERSION}; a newer nwc may read it")
        coder, dtype, rank = reader.u8(), reader.u8(), reader.u8()
        if coder >= len(CODERS):
            raise reader.fail(f"coder {coder}", f"one of {', '.join(f'{i} ({c})' for i, c in enumerate(CODERS))}")
        if dtype >= len(DTYPE_CODES):
            raise reader.fail(f"dtype {dtype}", f"a number below {len(DTYPE_CODES)}")
        if rank > MAX_RANK:
            raise reader.fail(f"rank {rank}", f"at most {MAX_RANK}")
        shape = tuple(reader.varint() for _ in range(rank))
        # The product of the non-zero dimensions, so that a zero cannot hide an absurd one.
        if math.prod(size for size in shape if size) > _MAX_ELEMENTS:
            raise reader.fail(f"shape {list(shape)}", f"at most {_MAX_ELEMENTS} elements")
        body = bytes(reader.raw(reader.remaining))
        return cls(DTYPES[DTYPE_CODES[dtype]], shape, CODERS[coder], body)
