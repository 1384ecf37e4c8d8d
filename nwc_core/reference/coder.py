"""The architecture "nwc-paper": the published neural weight codec, as a reference that codes to real bytes.

As published (arXiv 2510.11234): chunks of 16 along the output dimension of one input column, rows divided by their root mean
square, a residual autoencoder with a quality embedding, latents rounded about the medians of a factorised entropy
bottleneck, four quality levels. Where the errors' importance is known, columns are coded in four tiers by the diagonal of H
(`nwc_core.reference.tiers`), with feedback (`nwc_core.reference.quantiser`); where it is not, all columns share one level.

Decided here: every quality level has densities of its own, since one shared by all four, as published, would be too
wide for each of them; row scales are rounded to eighths of an octave rather than to float16, which costs fewer bits.
And since the published codec has four rates, any other is reached by a gain: weights are multiplied by it before
analysis and divided after synthesis, and tables widened by as much code the latents. At gain 1 (`encode_native`) the
codec is the published one. A gain is at most two octaves either way, so that rates end at about 1.2 and 7.5 bits per weight.

Arrays of its codec file, float16 unless said: `analysis.*` and `synthesis.*` (see `nwc_core.reference.network`), `embedding`
[4, width], `latents.centre` [4, 16], `latents.width` U8 [GAINS, 64] and `latents.freq` U16 (`nwc_core.reference.tables`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.codec_file import PAPER
from nwc_core.dequantise import Weights, place
from nwc_core.errors import FormatError, UsageError
from nwc_core.importance import Importance, factorise
from nwc_core.matrix_coder import CodedMatrix
from nwc_core.quantise import Unsuitable
from nwc_core.reference.autoencoder import Autoencoder, Setting
from nwc_core.reference.chunks import Source, from_chunks
from nwc_core.reference.network import Network, float_array
from nwc_core.reference.quantiser import Compensated, Independent, Quantiser
from nwc_core.reference.recipe import CHUNK, MAX_GAIN, QUALITIES
from nwc_core.reference.stream import MAX_LATENTS_PER_BYTE, ReferenceStream, side_nbytes
from nwc_core.reference.tables import LatentTables
from nwc_core.reference.tiers import Tier, Tiers, column_tiers, tier_settings
from nwc_core.wire import ByteReader, ByteWriter

_PILOTS, _ATTEMPTS = 5, 5
_TOLERANCE = 0.004  # bits per weight
_DAMPING = 0.01  # share of its mean diagonal that is added to H, as published


@dataclass(frozen=True)
class _Read:
    """A stream and what decodes it."""

    stream: ReferenceStream
    coder: ReferenceCoder

    def weights_into(self, out: Weights, where: str, threads: int = 1) -> None:
        if not self.stream.tiers.coded:
            out[:] = 0
        else:
            place(self.coder.synthesise(self.stream, self.stream.latents(self.coder.tables, where), threads), out)


@dataclass(frozen=True, eq=False)
class ReferenceCoder(Autoencoder):
    """See `nwc_core.matrix_coder.MatrixCoder`.

    Attributes:
        tables: of the rounded latents.
    """

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

        A tier's quality level is the one whose own rate is nearest; the gain makes up for the rest. Rows all count alike,
        as published, whatever `importance` says of them.
        """
        del n_states, taps
        source = Source.of(matrix)
        if source is None:
            return self._coded(ReferenceStream.zeros(*matrix.shape), threads)
        column, weights, quantiser = _prepared(source, None if importance is None else importance.hessian, bits)
        per_latent = matrix.size / source.chunks.size  # rows were filled up to whole chunks
        wanted = bits * per_latent - 8 * side_nbytes(column, source.exponents, self.tables) / source.chunks.size
        settings = tier_settings(wanted, column, weights, self.tables.native_rate(MAX_GAIN))
        sample = quantiser.sample()
        for _ in range(_PILOTS if sample else 0):
            assert sample is not None
            latents = sample.latents(self, settings, threads)
            missed = wanted - self._rate(latents, sample.tier, settings)
            settings = [setting.finer(missed) for setting in settings]
            if abs(missed) < _TOLERANCE:
                break
        best: tuple[float, ReferenceStream, npt.NDArray[np.int32]] | None = None
        for _ in range(_ATTEMPTS):
            latents = quantiser.latents(self, settings, threads)
            stream = self._stream(source, column, settings, latents)
            out = ByteWriter()
            stream.write(out, self.tables)
            missed = bits - 8 * len(out) / matrix.size
            if best is None or abs(missed) < best[0]:
                best = abs(missed), stream, latents
            before, settings = settings, [setting.finer(missed * per_latent) for setting in settings]
            if best[0] <= _TOLERANCE or settings == before:
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
        source = Source.of(matrix)
        if source is None:
            return self._coded(ReferenceStream.zeros(*matrix.shape), threads)
        latents = self.quantise(source.chunks, Setting(quality, 0.0), threads)
        tiers = Tiers((Tier(source.scale, quality, MAX_GAIN),), np.zeros(source.n, np.uint8))
        stream = ReferenceStream.encode(tiers, source.exponents, latents, self.tables)
        return self._coded(stream, threads, latents)

    def read(self, reader: ByteReader, m: int, n: int) -> _Read:
        return _Read(ReferenceStream.read(reader, m, n, self.tables), self)

    def synthesise(
        self, stream: ReferenceStream, latents: npt.NDArray[np.int32], threads: int
    ) -> npt.NDArray[np.float32]:
        """[m, n] weights from latents, bit for bit the same everywhere."""
        given = latents.reshape(-1, stream.n, CHUNK)
        chunks = np.empty(given.shape, np.float32)
        for tier, at in stream.tiers.members():
            decoded = self.reconstruct(given[:, at].reshape(-1, CHUNK), tier.quality, threads)
            chunks[:, at] = decoded.reshape(-1, at.size, CHUNK)
        scale = np.array([tier.scale for tier in stream.tiers.coded], np.float32)[stream.tiers.column]
        return from_chunks(chunks, stream.m, scale, stream.exponents)

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

    def _rate(self, latents: npt.NDArray[np.int32], tier: npt.NDArray[np.uint8], settings: Sequence[Setting]) -> float:
        """Bits per latent, given the tier of every chunk."""
        bits = [self.tables.rates(latents[tier == t], s.quality).min() for t, s in enumerate(settings)]
        return float(sum(bits)) / latents.size

    def _stream(
        self,
        source: Source,
        column: npt.NDArray[np.uint8],
        settings: Sequence[Setting],
        latents: npt.NDArray[np.int32],
    ) -> ReferenceStream:
        given, coded = latents.reshape(-1, source.n, CHUNK), []
        for index, setting in enumerate(settings):
            own = given[:, column == index].reshape(-1, CHUNK)
            gain = int(self.tables.rates(own, setting.quality).argmin())
            coded.append(Tier(np.float32(float(source.scale) / 2.0**setting.log2_gain), setting.quality, gain))
        return ReferenceStream.encode(Tiers(tuple(coded), column), source.exponents, latents, self.tables)

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


def _prepared(
    source: Source, hessian: npt.NDArray[np.float32] | None, bits: float
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], Quantiser]:
    """(tier of each column, what its error counts, quantiser)."""
    if hessian is None:
        column = np.zeros(source.n, np.uint8)
        return column, np.ones(source.n), Independent(source.chunks, np.tile(column, len(source.band_rows)))
    diagonal = np.diagonal(hessian)
    order = np.argsort(-diagonal, kind="stable")
    factor = factorise(hessian[np.ix_(order, order)], bits, _DAMPING)
    weights = np.empty(source.n)
    weights[order] = factor.weights
    column, chunks = column_tiers(diagonal), source.chunks.reshape(-1, source.n, CHUNK)
    return column, weights, Compensated(chunks, source.band_rows, column, order, factor.upper.astype(np.float32))
