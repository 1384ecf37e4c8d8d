"""What the points of a coded tensor take at least, apart from the bytes that they took."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.codec import Codec
from nwc_core.encoded import EncodedTensor
from nwc_core.matrices import Layout
from nwc_core.matrix_stream import MatrixStream
from nwc_core.prior import LEVELS, RATE_SPAN, raw_bits
from nwc_core.scales import levels_of
from nwc_core.wire import ByteReader


@dataclass(frozen=True)
class CodeLength:
    """Bits per weight of a tensor's quantisation points, headers, scales and states left out.

    Attributes:
        tables: under the tables that coded them: what a perfect entropy coder would write.
        entropy: under the best tables for just these points, one for every scale level: what a perfect prior would leave.
    """

    tables: float
    entropy: float


def code_length(codec: Codec, encoded: EncodedTensor) -> CodeLength:
    """Both lengths for a tensor coded by the nwc architecture (coder "nwc")."""
    tables = entropy = 0.0
    for stream in matrix_streams(codec, encoded):
        header = stream.header
        counts = _count(stream, stream.points(codec.prior, "benchmark"))
        tables += float((counts * codec.prior.tables[header.shape].rate).sum(dtype=np.float64))
        entropy += _entropy(counts)
    return CodeLength(tables / encoded.numel, entropy / encoded.numel)


def matrix_streams(codec: Codec, encoded: EncodedTensor) -> Iterator[MatrixStream]:
    """The streams of a tensor's matrices."""
    reader = ByteReader(encoded.body, "benchmark")
    count, m, n = Layout.read(reader, len(encoded.shape)).matrix_shape(encoded.shape)
    for _ in range(count):
        body = ByteReader(reader.raw(reader.varint()), "benchmark")
        yield MatrixStream.read(body, m, n, codec.prior, codec.transforms)


def _count(stream: MatrixStream, points: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """[LEVELS, 2 * RATE_SPAN] how often each level met each symbol: point 2 k + q without the raw low bits of k."""
    header = stream.header
    flat, level = points.reshape(-1), levels_of(*header.level_axes).reshape(-1)
    symbol = 2 * (flat >> 1 >> raw_bits(level)) + (flat & 1)
    at = np.clip(symbol + RATE_SPAN, 0, 2 * RATE_SPAN - 1)
    cell = level.astype(np.int64) * (2 * RATE_SPAN) + at
    return np.bincount(cell, minlength=LEVELS * 2 * RATE_SPAN).reshape(LEVELS, 2 * RATE_SPAN)


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """Bits of all points given their levels and q, with Miller and Madow's correction of the bias of a small count."""
    total = float(counts.sum(axis=1) @ raw_bits(np.arange(LEVELS)))
    for level in np.flatnonzero(counts.any(axis=1)):
        for q in (0, 1):
            seen = counts[level, q::2]
            seen = seen[seen > 0].astype(np.float64)
            if seen.size:
                total -= float((seen * np.log2(seen / seen.sum())).sum())
                total += (seen.size - 1) / (2 * math.log(2))
    return total
