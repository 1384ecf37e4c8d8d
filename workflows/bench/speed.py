"""Speed of a codec beside memcpy, zstd and ZipNN: the same bfloat16 tensors, the same run, the fastest of several times."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

from nwc_core.codec import Codec
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import IntegrityError
from nwc_core.lossless import tensor_bytes
from nwc_workflows.bench.one_pass import OnePass
from nwc_workflows.bench.sheets import Sheet

ZSTD_LEVEL = 3
THREADS = (1, 2)
# The fastest of many short runs: others compute on the same machine now and then.
_MOST_RUNS, _ENOUGH_SECONDS = 25, 3.0
_TAP_REACH = 1.0  # taps at this distance correlate by exp(-1/2), about as in the 3x3 kernels of trained networks


@dataclass(frozen=True)
class Speed:
    """How fast something goes through a tensor once.

    Attributes:
        what: the operation.
        preset: of the encoder that ran, or that made what was decoded; None for other operations and codecs.
        threads: that it was given.
        seconds: wall time of the fastest run.
        weights: of the tensor.
        nbytes: of the result, where that is a compressed form.
    """

    what: str
    preset: str | None
    threads: int
    seconds: float
    weights: int
    nbytes: int | None = None

    @property
    def weights_per_second(self) -> float:
        return self.weights / self.seconds


def speed_tensors() -> dict[str, torch.Tensor]:
    """Gaussian bfloat16 weights: a linear layer, and a convolution whose taps are alike, so that a transform pays."""
    generator = torch.Generator().manual_seed(0)
    linear = torch.randn(4096, 1024, generator=generator)
    place = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    covariance = torch.exp(-torch.cdist(place, place).square() / (2 * _TAP_REACH**2))
    taps = torch.randn(512, 512, 9, generator=generator) @ torch.linalg.cholesky(covariance).T
    return {"linear": linear.bfloat16(), "conv": taps.reshape(512, 512, 3, 3).bfloat16()}


def baseline_speeds(weight: torch.Tensor) -> Iterator[Speed]:
    """memcpy, zstd and, where it is installed, ZipNN on the tensor's bytes, one thread."""
    import zstandard

    raw = tensor_bytes(weight)
    copy = np.empty_like(raw)
    compressor, expander = zstandard.ZstdCompressor(level=ZSTD_LEVEL), zstandard.ZstdDecompressor()
    packed = compressor.compress(raw.data)
    speed = partial(Speed, preset=None, threads=1, weights=weight.numel())
    yield speed("memcpy", seconds=_best(lambda: np.copyto(copy, raw))[0])
    yield speed(
        f"zstd -{ZSTD_LEVEL}, compress", seconds=_best(lambda: compressor.compress(raw.data))[0], nbytes=len(packed)
    )
    yield speed(f"zstd -{ZSTD_LEVEL}, decompress", seconds=_best(lambda: expander.decompress(packed))[0])
    if find_spec("zipnn") is not None:
        from nwc_workflows.bench.lossless import Zipnn

        zipnn = Zipnn()
        small = zipnn.compress(weight, bytearray(raw))
        # It works on a copy: it takes what it is given apart in place.
        seconds = _best(lambda: zipnn.compress(weight, bytearray(raw)))[0]
        yield speed("ZipNN, compress", seconds=seconds, nbytes=zipnn.nbytes(small))
        yield speed("ZipNN, decompress", seconds=_best(lambda: zipnn.decompress(small))[0])


def codec_speeds(codec: Codec, weight: torch.Tensor, bits: float, preset: str | None) -> Iterator[Speed]:
    """Encoding and decoding on one thread and on two; for a codec with presets, the parts of its encoder too.

    Args:
        codec, weight, bits: what is coded, and at which rate.
        preset: of the encoder; None for a codec that has none.
    """
    torch.set_num_threads(1)
    encode = partial(codec.encode, weight, bits, preset=preset or "default")
    codec.decode(codec.encode(weight[:32], bits, preset=preset or "default"))  # compiles what is still to be compiled
    encoded = encode()
    raw = encoded.to_bytes()
    digest = hashlib.sha256(raw).digest()
    speed = partial(Speed, preset=preset, weights=weight.numel())

    def on_threads(what: str, run: Callable[[int], object], nbytes: int | None = None) -> Iterator[Speed]:
        for threads, seconds in zip(THREADS, _best(*(partial(run, threads) for threads in THREADS)), strict=True):
            yield speed(what, threads=threads, seconds=seconds, nbytes=nbytes)

    def each(what: str, run: Callable[[], object]) -> Iterator[Speed]:
        """A tensor on every thread, as the workers of a compression have it."""
        with ThreadPoolExecutor(max(THREADS)) as pool:
            runs = [lambda threads=threads: list(pool.map(lambda _: run(), range(threads))) for threads in THREADS]
            for threads, seconds in zip(THREADS, _best(*runs), strict=True):
                yield replace(speed(what, threads=threads, seconds=seconds), weights=threads * weight.numel())

    yield from on_threads("encode", lambda threads: encode(threads=threads), len(raw))
    yield from each("encode, a tensor on each thread", encode)
    yield from on_threads("decode, digest checked", lambda threads: _decode(codec, raw, digest, threads))
    yield from each("decode, a tensor on each thread", lambda: _decode(codec, raw, digest, 1))
    if preset and encoded.coder == "nwc":
        again = OnePass(codec, weight, encoded)
        yield from on_threads("encode, one pass at the final step", again.run)
        yield speed("  search alone", threads=1, seconds=_best(again.search)[0])
        yield speed("  entropy coder alone", threads=1, seconds=_best(again.code)[0])


def _decode(codec: Codec, raw: bytes, digest: bytes, threads: int) -> torch.Tensor:
    """As a tensor of an artifact is read: its digest is checked before a byte is believed."""
    if hashlib.sha256(raw).digest() != digest:
        raise IntegrityError("benchmark", "other bytes than were encoded", "the same")
    return codec.decode(EncodedTensor.from_bytes(raw), threads)


def _best(*runs: Callable[[], object]) -> list[float]:
    """Seconds of the fastest run of each, of the only one where that is slow.

    They take turns, so that whatever else the machine does slows all of them.
    """
    times: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    while not times[0] or (len(times[0]) < _MOST_RUNS and time.perf_counter() - start < _ENOUGH_SECONDS * len(runs)):
        for run, taken in zip(runs, times, strict=True):
            before = time.perf_counter()
            run()
            taken.append(time.perf_counter() - before)
    return list(map(min, times))


def speed_sheet(speeds: Sequence[Speed]) -> Sheet:
    """For people: the tensor's speeds, memcpy's among them."""
    memcpy = next(s.weights_per_second for s in speeds if s.what == "memcpy")
    alone = {(s.what, s.preset): s.weights_per_second for s in speeds if s.threads == 1}
    rows = [
        [
            *(
                s.what,
                s.preset or "",
                s.threads,
                f"{s.weights_per_second / 1e6:,.1f}",
                f"{memcpy / s.weights_per_second:.1f}",
            ),
            f"{s.weights_per_second / alone[s.what, s.preset]:.2f}" if s.threads > 1 else "",
            f"{8 * s.nbytes / s.weights:.3f}" if s.nbytes is not None else "",
        ]
        for s in speeds
    ]
    headers = ("operation", "preset", "threads", "M weights/s", "time / memcpy", "over 1 thread", "bits/weight")
    return Sheet(headers, rows)
