"""The architecture "nwc-paper": the published neural weight codec, as a reference that codes to real bytes.

As published (arXiv 2510.11234): chunks of 16 along the output dimension of one input column, rows divided by their root mean
square, a residual autoencoder with a quality embedding, latents rounded about the medians of a factorised entropy
bottleneck, four quality levels. All columns of a matrix share one level, as nothing says which of them matter.

Decided here: every quality level has densities of its own, since one shared by all four, as published, would be too
wide for each of them; row scales are rounded to eighths of an octave rather than to float16, which costs fewer bits.
And since the published codec has four rates, any other is reached by a gain: weights are multiplied by it before
analysis and divided after synthesis, and tables widened by as much code the latents. At gain 1 (`encode_native`) the
codec is the published one. A gain is at most two octaves either way, so that rates end at about 1.2 and 7.5 bits per weight.

Arrays of its codec file, float16 unless said: `analysis.*` and `synthesis.*` (see `nwc_core.reference.network`), `embedding`
[4, width], `latents.centre` [4, 16], `latents.width` U8 [GAINS, 64] and `latents.freq` U16 (`nwc_core.reference.tables`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core import steps
from nwc_core.codec_file import PAPER
from nwc_core.dequantise import Weights, place
from nwc_core.errors import FormatError, UsageError
from nwc_core.importance import Importance
from nwc_core.matrix_coder import CodedMatrix
from nwc_core.prior import RATE_SPAN
from nwc_core.quantise import Unsuitable
from nwc_core.reference.chunks import from_chunks, row_scales, to_chunks
from nwc_core.reference.network import Network, float_array
from nwc_core.reference.recipe import CHUNK, GAIN_STEP, MAX_GAIN, QUALITIES
from nwc_core.reference.stream import MAX_LATENT, MAX_LATENTS_PER_BYTE, ReferenceStream, side_nbytes
from nwc_core.reference.tables import LatentTables
from nwc_core.wire import ByteReader, ByteWriter

# Chunks that the rate is first measured on; the networks are slow, so few, but more where a second pass would be dear.
_PILOT_SHARE, _MIN_PILOT, _MAX_PILOT = 1 / 16, 1 << 11, 1 << 14
_PILOTS, _ATTEMPTS = 5, 3
_TOLERANCE = 0.004  # bits per weight


@dataclass(frozen=True)
class _Read:
    """A stream and what decodes it."""

    stream: ReferenceStream
    coder: ReferenceCoder

    def weights_into(self, out: Weights, where: str, threads: int = 1) -> None:
        if not self.stream.scale:
            out[:] = 0
        else:
            place(self.coder.synthesise(self.stream, self.stream.latents(self.coder.tables, where), threads), out)


@dataclass(frozen=True, eq=False)
class ReferenceCoder:
    """See `nwc_core.matrix_coder.MatrixCoder`.

    Attributes:
        analysis, synthesis: the networks.
        embedding: [QUALITIES, width] float32, what both scale their features by.
        centre: [QUALITIES, CHUNK] float32, medians that latents are rounded about.
        tables: of the rounded latents.
    """

    analysis: Network
    synthesis: Network
    embedding: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float32]
    tables: LatentTables

    @property
    def architecture(self) -> str:
        return PAPER

    def encode(
        self,
        matrix: npt.NDArray[np.float32],
        bits: float,
        *,
        n_states: int,
        taps: int,
        threads: int,
        importance: Importance | None = None,
    ) -> CodedMatrix:
        """See `MatrixCoder.encode`. There is no search, and convolutions are coded like everything else.

        The quality level is the one whose own rate is nearest; the gain makes up for the rest.
        """
        del n_states, taps, importance
        source = _Source.of(matrix)
        if source is None:
            return self._coded(ReferenceStream.zeros(*matrix.shape), threads)
        per_latent = matrix.size / source.chunks.size  # rows were filled up to whole chunks
        side = 8 * side_nbytes(len(source.chunks), source.exponents, self.tables)
        wanted = bits * per_latent - side / source.chunks.size
        native = self.tables.native_rate(MAX_GAIN)
        quality = int(np.abs(native - wanted).argmin())
        log2_gain = _clip(wanted - native[quality])
        sample = source.sample()
        for _ in range(_PILOTS):
            latents = self._latents(sample, quality, log2_gain, threads)
            missed = wanted - self._rates(latents, quality).min()
            log2_gain = _clip(log2_gain + missed)
            if abs(missed) < _TOLERANCE:
                break
        best: tuple[float, ReferenceStream, npt.NDArray[np.int32]] | None = None
        for _ in range(_ATTEMPTS):
            latents = self._latents(source.chunks, quality, log2_gain, threads)
            gain = int(self._rates(latents, quality).argmin())
            stream = self._stream(source, quality, log2_gain, gain, latents)
            out = ByteWriter()
            stream.write(out, self.tables)
            missed = bits - 8 * len(out) / matrix.size
            if best is None or abs(missed) < best[0]:
                best = abs(missed), stream, latents
            before, log2_gain = log2_gain, _clip(log2_gain + missed * per_latent)
            if best[0] <= _TOLERANCE or log2_gain == before:
                break
        assert best is not None
        return self._coded(best[1], threads, best[2])

    def encode_native(self, matrix: npt.NDArray[np.float32], quality: int, threads: int = 1) -> CodedMatrix:
        """Code a matrix [m, n] by the published codec itself: at the quality level's own rate, gain 1.

        Raises:
            UsageError: there is no such quality level.
            Unsuitable: see `MatrixCoder.encode`.
        """
        if not 0 <= quality < QUALITIES:
            raise UsageError(f"quality level {quality}; wanted one of 0 to {QUALITIES - 1}")
        source = _Source.of(matrix)
        if source is None:
            return self._coded(ReferenceStream.zeros(*matrix.shape), threads)
        latents = self._latents(source.chunks, quality, 0.0, threads)
        return self._coded(self._stream(source, quality, 0.0, MAX_GAIN, latents), threads, latents)

    def read(self, reader: ByteReader, m: int, n: int) -> _Read:
        return _Read(ReferenceStream.read(reader, m, n, self.tables), self)

    def synthesise(
        self, stream: ReferenceStream, latents: npt.NDArray[np.int32], threads: int
    ) -> npt.NDArray[np.float32]:
        """[m, n] weights from latents, bit for bit the same everywhere."""
        y = latents.astype(np.float32) + self.centre[stream.quality]
        chunks = self.synthesis(y, self.embedding[stream.quality], threads)
        return from_chunks(chunks, stream.m, stream.n, stream.scale, stream.exponents)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            **self.analysis.arrays("analysis"),
            **self.synthesis.arrays("synthesis"),
            "embedding": self.embedding.astype(np.float16),
            "latents.centre": self.centre.astype(np.float16),
            "latents.freq": self.tables.freq,
            "latents.width": self.tables.half_width,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], where: str) -> ReferenceCoder:
        """Check what a codec file holds.

        Raises:
            FormatError: arrays are missing, too many or not what they should be; `where` names the file.
        """
        analysis = Network.from_arrays(arrays, "analysis", where)
        width = analysis.inner_bias.size
        coder = cls(
            analysis,
            Network.from_arrays(arrays, "synthesis", where),
            float_array(arrays, "embedding", (QUALITIES, width), where),
            float_array(arrays, "latents.centre", (QUALITIES, CHUNK), where),
            LatentTables.from_arrays(arrays, where),
        )
        if coder.synthesis.inner_bias.size != width:
            raise FormatError(
                where, f"a synthesis of width {coder.synthesis.inner_bias.size}", f"{width}, as the analysis"
            )
        if extra := sorted(set(arrays) - set(coder.arrays())):
            raise FormatError(where, f"tensors {', '.join(extra)}", "only those of a reference codec")
        return coder

    def _latents(
        self, chunks: npt.NDArray[np.float32], quality: int, log2_gain: float, threads: int
    ) -> npt.NDArray[np.int32]:
        y = self.analysis(chunks * np.float32(2.0**log2_gain), self.embedding[quality], threads)
        y -= self.centre[quality]
        if not np.isfinite(y).all():
            raise Unsuitable
        return np.clip(np.rint(y), -MAX_LATENT, MAX_LATENT).astype(np.int32)

    def _rates(self, latents: npt.NDArray[np.int32], quality: int) -> npt.NDArray[np.float64]:
        """[GAINS] bits per latent under the tables of every gain."""
        channel = np.arange(CHUNK) * (2 * RATE_SPAN)
        at = np.clip(2 * latents + RATE_SPAN, 0, 2 * RATE_SPAN - 2) + channel
        histogram = np.bincount(at.reshape(-1), minlength=CHUNK * 2 * RATE_SPAN).reshape(CHUNK, -1)
        own = slice(quality * CHUNK, (quality + 1) * CHUNK)
        costs = [float((tables.rate[own].astype(np.float64) * histogram).sum()) for tables in self.tables.sets]
        return np.array(costs) / latents.size

    def _stream(
        self, source: _Source, quality: int, log2_gain: float, gain: int, latents: npt.NDArray[np.int32]
    ) -> ReferenceStream:
        scale = np.float32(float(source.scale) / 2.0**log2_gain)
        return ReferenceStream.encode(source.m, source.n, scale, quality, gain, source.exponents, latents, self.tables)

    def _coded(
        self, stream: ReferenceStream, threads: int, latents: npt.NDArray[np.int32] | None = None
    ) -> CodedMatrix:
        out = ByteWriter()
        side = stream.write(out, self.tables)
        if latents is None:
            return CodedMatrix(out.getvalue(), side, np.zeros((stream.m, stream.n), np.float32))
        if latents.size > MAX_LATENTS_PER_BYTE * len(out):
            raise Unsuitable  # no reader would take it
        return CodedMatrix(out.getvalue(), side, self.synthesise(stream, latents, threads))


@dataclass(frozen=True)
class _Source:
    """A matrix to code: its scales and its chunks of unit variance."""

    m: int
    n: int
    scale: np.float32
    exponents: npt.NDArray[np.int32]
    chunks: npt.NDArray[np.float32]

    @classmethod
    def of(cls, matrix: npt.NDArray[np.float32]) -> _Source | None:
        """None for a matrix of zeros."""
        scale, exponents = row_scales(matrix)
        if not scale:
            return None
        # Two octaves of gain, and 24 of smaller rows, must not leave the range either.
        if not 16 * steps.MIN_STEP < scale < steps.MAX_STEP / 16:
            raise Unsuitable
        m, n = matrix.shape
        return cls(m, n, scale, exponents, to_chunks(matrix, scale, exponents))

    def sample(self) -> npt.NDArray[np.float32]:
        """Evenly spaced chunks."""
        count = int(np.clip(len(self.chunks) * _PILOT_SHARE, _MIN_PILOT, _MAX_PILOT))
        if count >= len(self.chunks):
            return self.chunks
        return self.chunks[np.linspace(0, len(self.chunks) - 1, count).round().astype(np.int64)]


def _clip(log2_gain: float) -> float:
    return float(np.clip(log2_gain, -MAX_GAIN * GAIN_STEP, MAX_GAIN * GAIN_STEP))
