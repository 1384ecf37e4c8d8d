"""Lossless coding of checkpoints beside Zstandard and ZipNN: size and speed on one core, in one run.

Everybody gets the same tensors, one after the other; ZipNN also all of them in one piece, as it would see a file. Times are
sums over tensors of the fastest of several rounds, and do not include reading or writing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from nwc_core.encoded import EncodedTensor
from nwc_core.errors import IntegrityError
from nwc_core.lossless import decode_lossless, encode_lossless, tensor_bytes
from nwc_workflows.bench.rivals.rival import missing
from nwc_workflows.sources import Checkpoint, read_bytes, to_tensor

ZSTD_LEVELS = (3, 19)
_ZIPNN_TYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Contender(Protocol):
    """What codes tensors without loss. Bytes in, bytes out; each call gets a copy of its own."""

    name: str

    def compress(self, tensor: torch.Tensor, raw: bytearray) -> Any: ...

    def decompress(self, packed: Any) -> Any: ...

    def nbytes(self, packed: Any) -> int: ...


class Nwc:
    """Ours, header and all."""

    name = "nwc"

    def compress(self, tensor: torch.Tensor, raw: bytearray) -> bytes:
        return encode_lossless(tensor).to_bytes()

    def decompress(self, packed: bytes) -> memoryview:
        return tensor_bytes(decode_lossless(EncodedTensor.from_bytes(packed))).data

    def nbytes(self, packed: bytes) -> int:
        return len(packed)


class Zstd:
    """The elements' bytes as they lie."""

    def __init__(self, level: int) -> None:
        import zstandard

        self.name = f"zstd -{level}"
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._decompressor = zstandard.ZstdDecompressor()

    def compress(self, tensor: torch.Tensor, raw: bytearray) -> bytes:
        return bytes(self._compressor.compress(raw))

    def decompress(self, packed: bytes) -> bytes:
        return bytes(self._decompressor.decompress(packed))

    def nbytes(self, packed: bytes) -> int:
        return len(packed)


class Zipnn:
    """The package, on one thread. Types that it does not take go to Zstandard."""

    name = "zipnn"

    def __init__(self) -> None:
        from zipnn import ZipNN  # type: ignore[import-untyped, unused-ignore]

        self._coders = {dtype: ZipNN(bytearray_dtype=name, threads=1) for dtype, name in _ZIPNN_TYPES.items()}
        self._other = Zstd(ZSTD_LEVELS[0])

    def compress(self, tensor: torch.Tensor, raw: bytearray) -> tuple[Any, Any]:
        coder = self._coders.get(tensor.dtype)
        return (coder, coder.compress(raw)) if coder else (self._other, self._other.compress(tensor, raw))

    def decompress(self, packed: tuple[Any, Any]) -> Any:
        return packed[0].decompress(packed[1])

    def nbytes(self, packed: tuple[Any, Any]) -> int:
        return len(packed[1])


@dataclass(frozen=True)
class LosslessResult:
    """Of one contender on one checkpoint.

    Attributes:
        contender: its name.
        nbytes: of all tensors, compressed.
        source_nbytes: of all tensors.
        compress_seconds, decompress_seconds: wall time, on one core.
    """

    contender: str
    nbytes: int
    source_nbytes: int
    compress_seconds: float
    decompress_seconds: float

    @property
    def share(self) -> float:
        """Of the original."""
        return self.nbytes / self.source_nbytes


def contenders() -> tuple[list[Contender], str | None]:
    """All that are installed, and why one is not there."""
    absent = missing("lossless", "zipnn")
    return [Nwc(), *(Zstd(level) for level in ZSTD_LEVELS), *([] if absent else [Zipnn()])], absent


def tensors_of(checkpoint: Checkpoint, cast: torch.dtype | None) -> list[torch.Tensor]:
    """All tensors that hold elements; those of float32 rounded to `cast` first, if that is given."""
    found = []
    for tensor in checkpoint.tensors:
        if tensor.numel:
            loaded = to_tensor(read_bytes(checkpoint, tensor, 0, tensor.numel), tensor.dtype, tensor.shape)
            found.append(loaded.to(cast) if cast is not None and loaded.dtype == torch.float32 else loaded)
    return found


def measure(
    contender: Contender, tensors: Sequence[torch.Tensor], rounds: int, advance: Callable[[int], None]
) -> LosslessResult:
    """Code all tensors, and back.

    Raises:
        IntegrityError: something else came back.
    """
    nbytes, source, coding, decoding = 0, 0, 0.0, 0.0
    for index, tensor in enumerate(tensors):
        raw = tensor_bytes(tensor).tobytes()
        source += len(raw)
        packed: list[Any] = []

        def compress(tensor: torch.Tensor = tensor, raw: bytes = raw, packed: list[Any] = packed) -> Callable[[], None]:
            copy = bytearray(raw)
            return lambda: packed.append(contender.compress(tensor, copy))

        # What takes seconds needs no second round.
        coding += _fastest(compress, rounds)
        back: list[Any] = []

        def decompress(packed: Any = packed[0], back: list[Any] = back) -> Callable[[], None]:
            return lambda: back.append(contender.decompress(packed))

        decoding += _fastest(decompress, rounds)
        nbytes += contender.nbytes(packed[0])
        if bytes(back[0]) != raw:
            raise IntegrityError(contender.name, f"tensor {index}: other bytes", "those that were compressed")
        advance(len(raw))
    return LosslessResult(contender.name, nbytes, source, coding, decoding)


def in_one_piece(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of each type as one flat tensor."""
    return [
        torch.cat([tensor.reshape(-1) for tensor in tensors if tensor.dtype == dtype])
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors)
    ]


def lossless_table(results: Sequence[LosslessResult]) -> tuple[list[str], list[list[object]]]:
    """Headers and rows; differences from ZipNN, the smaller of its two forms, in parts of the original."""
    rivals = [one.share for one in results if one.contender.startswith("zipnn")]
    headers = ["coder", "bytes", "% of original", "less than ZipNN, %", "compress MB/s", "decompress MB/s"]
    return headers, [
        [
            one.contender,
            f"{one.nbytes:,}",
            f"{100 * one.share:.3f}",
            f"{100 * (min(rivals) - one.share):+.3f}" if rivals else "-",
            f"{one.source_nbytes / one.compress_seconds / 1e6:.0f}",
            f"{one.source_nbytes / one.decompress_seconds / 1e6:.0f}",
        ]
        for one in results
    ]


def _fastest(prepare: Callable[[], Callable[[], None]], rounds: int) -> float:
    """Seconds of the fastest run; what is to run is prepared each time, untimed."""
    times: list[float] = []
    while len(times) < rounds and sum(times) < 1:
        run = prepare()
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
