"""Rate, distortion and speed of a codec, from bytes written and in one run on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from nwc_core.codec import Codec
from nwc_core.encoded import EncodedTensor
from nwc_core.lossless import tensor_bytes
from nwc_core.matrices import Layout
from nwc_core.matrix_stream import MatrixStream
from nwc_core.prior import RATE_SPAN, raw_bits
from nwc_core.wire import ByteReader

ZSTD_LEVEL = 3
_REPEATS = 5


@dataclass(frozen=True)
class RatePoint:
    """One tensor coded at one rate.

    Attributes:
        preset, wanted: what was asked for.
        bits: per weight, all bytes of the coded tensor.
        mse: mean squared error over the variance.
        ideal_bits: code length of the points under the tables that coded them, without any side information.
    """

    preset: str
    wanted: float
    bits: float
    mse: float
    ideal_bits: float

    @property
    def gap(self) -> float:
        """Bits per weight above the rate-distortion function of a Gaussian of this variance, 1/2 log2(1/D)."""
        return self.bits + 0.5 * math.log2(self.mse)


@dataclass(frozen=True)
class Speed:
    """How fast something went through a tensor once; the fastest of several runs.

    Attributes:
        what: the operation.
        seconds: wall time.
        weights: of the tensor.
        nbytes: of its result, where that is a compressed form.
    """

    what: str
    seconds: float
    weights: int
    nbytes: int | None = None

    @property
    def weights_per_second(self) -> float:
        return self.weights / self.seconds


def rate_points(codec: Codec, weight: torch.Tensor, presets: list[str], rates: list[float]) -> list[RatePoint]:
    """Code a tensor at every rate with every preset, from bytes and back."""
    variance = float(weight.double().var(correction=0))
    points = []
    for preset in presets:
        for wanted in rates:
            raw = codec.encode(weight, wanted, preset=preset).to_bytes()
            encoded = EncodedTensor.from_bytes(raw)
            error = codec.decode(encoded).double() - weight.double()
            mse = float(error.square().mean()) / variance
            points.append(RatePoint(preset, wanted, 8 * len(raw) / weight.numel(), mse, _ideal_bits(codec, encoded)))
    return points


def speeds(codec: Codec, weight: torch.Tensor, bits: float, presets: list[str]) -> list[Speed]:
    """memcpy, zstd and the codec on the same tensor, one thread, in one run."""
    import zstandard

    raw = tensor_bytes(weight)
    copy = np.empty_like(raw)
    compressor, expander = zstandard.ZstdCompressor(level=ZSTD_LEVEL), zstandard.ZstdDecompressor()
    packed = compressor.compress(raw.tobytes())
    n = weight.numel()
    out = [
        Speed("memcpy", _best(lambda: np.copyto(copy, raw)), n),
        Speed(f"zstd -{ZSTD_LEVEL} compress", _best(lambda: compressor.compress(raw.data)), n, len(packed)),
        Speed(f"zstd -{ZSTD_LEVEL} decompress", _best(lambda: expander.decompress(packed)), n),
    ]
    for preset in presets:
        encoded = codec.encode(weight, bits, preset=preset)
        out.append(
            Speed(f"encode, {preset}", _best(partial(codec.encode, weight, bits, preset=preset)), n, encoded.nbytes)
        )
        out.append(Speed(f"decode, {preset}", _best(partial(codec.decode, encoded)), n))
    return out


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """[rows, columns] independent, of variance 1."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _best(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _ideal_bits(codec: Codec, encoded: EncodedTensor) -> float:
    reader = ByteReader(encoded.body, "benchmark")
    layout = Layout.read(reader, len(encoded.shape))
    count, m, n = layout.matrix_shape(encoded.shape)
    total = 0.0
    for _ in range(count):
        stream = MatrixStream.read(
            ByteReader(reader.raw(reader.varint()), "matrix"), m, n, codec.prior, codec.transforms
        )
        header = stream.header
        points = stream.points(codec.prior, "benchmark")
        flat = (points.T if header.by_columns else points).reshape(-1)
        level = header.scales.levels(0, header.outer, header.by_columns)
        at = np.clip((flat >> raw_bits(level)) + RATE_SPAN, 0, 2 * RATE_SPAN - 1)
        total += float(codec.prior.tables[header.shape].rate[level, at].sum(dtype=np.float64))
    return total / encoded.numel
