"""One tensor coded once: its rate from the bytes written, its distortion from the tensor that they decode to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nwc_core.codec import Codec
from nwc_core.encoded import EncodedTensor
from nwc_workflows.bench.code_length import code_length


@dataclass(frozen=True)
class Measurement:
    """What one encoding was found to be. Rates are in bits per weight.

    Attributes:
        wanted: the rate asked for; None where the codec's own was taken.
        bits: all bytes of the coded tensor.
        mse: mean squared error of the decoded tensor.
        side_bits: headers, scales and sizes among `bits`.
        table_bits: code length of the points under the tables that coded them; None where the codec has no such tables.
        entropy_bits: the same under the best tables for just these points.
        encode_seconds, decode_seconds: of one run on one thread.
    """

    wanted: float | None
    bits: float
    mse: float
    side_bits: float | None = None
    table_bits: float | None = None
    entropy_bits: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None

    @property
    def missed_by(self) -> float | None:
        """Rate above what was asked for."""
        return None if self.wanted is None else self.bits - self.wanted

    @property
    def coder_bits(self) -> float | None:
        """What the bytes take above side information and ideal code length: states, tails, rounding of the coder."""
        if self.side_bits is None or self.table_bits is None:
            return None
        return self.bits - self.side_bits - self.table_bits

    @property
    def misfit_bits(self) -> float | None:
        """What better tables could save: the distance of the tables from the points' own statistics."""
        if self.entropy_bits is None or self.table_bits is None:
            return None
        return self.table_bits - self.entropy_bits


def measure(
    codec: Codec, weight: torch.Tensor, encode: Callable[[], EncodedTensor], *, wanted: float | None, tables: bool
) -> Measurement | None:
    """Code `weight` to bytes and back, on one thread; None where the encoder chose to do it without loss.

    Args:
        codec: decodes.
        weight: the tensor.
        encode: encodes it.
        wanted: see Measurement.
        tables: whether the codec is of an architecture whose code length `code_length` knows.
    """
    start = time.perf_counter()
    encoded = encode()
    encode_seconds = time.perf_counter() - start
    raw = encoded.to_bytes()
    received = EncodedTensor.from_bytes(raw)
    start = time.perf_counter()
    decoded = codec.decode(received)
    decode_seconds = time.perf_counter() - start
    if received.coder != "nwc":
        return None
    length = code_length(codec, received) if tables else None
    return Measurement(
        wanted=wanted,
        bits=8 * len(raw) / weight.numel(),
        mse=float((decoded.double() - weight.double()).square().mean()),
        side_bits=8 * (encoded.side_nbytes + len(raw) - len(encoded.body)) / weight.numel(),
        table_bits=length.tables if length else None,
        entropy_bits=length.entropy if length else None,
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
    )
