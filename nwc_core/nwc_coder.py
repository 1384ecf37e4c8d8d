"""The architecture "nwc": learned prior, learned transforms, trellis-coded quantisation.

Arrays of its codec file:

    transform.K      I16 [g, g]         K = 1, 2, ...: learned transforms, see `nwc_core.transform`
    prior            U8  [...]          the tables, packed, see `nwc_core.prior_file`

Streams: see `nwc_core.matrix_stream`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.codec_file import NWC
from nwc_core.decorrelate import Parts, decorrelate
from nwc_core.dequantise import Weights
from nwc_core.errors import FormatError
from nwc_core.importance import Importance
from nwc_core.matrix_coder import CodedMatrix
from nwc_core.matrix_stream import MatrixStream, Transforms
from nwc_core.prior import Prior
from nwc_core.prior_file import pack_prior, unpack_prior
from nwc_core.problem import Problem, problem_of
from nwc_core.quantise import encode_matrix, encode_nearest
from nwc_core.transform import SCALE_BITS
from nwc_core.wire import ByteReader, ByteWriter

MAX_TRANSFORMS = 255  # streams number them in one byte, from 1


@dataclass(frozen=True)
class _Read:
    """A stream and what decodes it."""

    stream: MatrixStream
    coder: NwcCoder

    def weights_into(self, out: Weights, where: str, threads: int = 1) -> None:
        self.stream.weights_into(out, self.coder.prior, self.coder.transforms, where, threads)


@dataclass(frozen=True, eq=False)
class NwcCoder:
    """See `nwc_core.matrix_coder.MatrixCoder`.

    Attributes:
        prior: entropy tables.
        transforms: [g, g] int16 each, numbered from 1 in streams.
        parts: of the encoder that are at work; not a property of the file.
    """

    prior: Prior
    transforms: Transforms
    parts: Parts = field(default_factory=Parts)

    @property
    def architecture(self) -> str:
        return NWC

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
        stream, weights = encode_matrix(
            matrix,
            bits,
            n_states=n_states,
            taps=taps,
            prior=self.prior,
            transforms=self.transforms,
            threads=threads,
            parts=self.parts,
            importance=importance,
        )
        return self._coded(stream, weights)

    def encode_nearest(self, matrix: npt.NDArray[np.float32], max_error: float, threads: int) -> CodedMatrix:
        """See `nwc_core.quantise.encode_nearest`."""
        return self._coded(
            *encode_nearest(matrix, max_error, prior=self.prior, transforms=self.transforms, threads=threads)
        )

    def _coded(self, stream: MatrixStream, weights: npt.NDArray[np.float32]) -> CodedMatrix:
        out = ByteWriter()
        side = stream.write(out, self.prior)
        return CodedMatrix(out.getvalue(), side, weights)

    def problem(
        self, matrix: npt.NDArray[np.float32], bits: float, taps: int, importance: Importance | None
    ) -> Problem:
        """A matrix [m, n], not all zero, ready to be quantised at about `bits` per weight."""
        coefficients = decorrelate(matrix, bits, taps, self.prior, self.transforms, self.parts)
        return problem_of(coefficients, self.transforms, importance, bits, self.parts, n_states=1, threads=1)

    def read(self, reader: ByteReader, m: int, n: int) -> _Read:
        return _Read(MatrixStream.read(reader, m, n, self.prior, self.transforms), self)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        numbered = {f"transform.{k}": matrix for k, matrix in enumerate(self.transforms, 1)}
        return {**numbered, "prior": pack_prior(self.prior)}  # numbers of two bytes first: they stay aligned

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], where: str) -> NwcCoder:
        """Check what a codec file holds.

        Raises:
            FormatError: arrays are missing, too many or not what they should be; `where` names the file.
        """
        numbers = range(1, len(arrays))
        transforms = [arrays[f"transform.{k}"] for k in numbers if f"transform.{k}" in arrays]
        left = sorted(set(arrays) - {f"transform.{k}" for k in numbers})
        if left != ["prior"]:
            raise FormatError(where, f"tensors {', '.join(left) or 'none'}", "prior, transform.1 ...")
        packed = arrays["prior"]
        if packed.dtype != np.uint8 or packed.ndim != 1:
            raise FormatError(f"{where}, prior", f"{packed.dtype} {packed.shape}", "uint8, one axis")
        if len(transforms) > MAX_TRANSFORMS:
            raise FormatError(where, f"{len(transforms)} transforms", f"at most {MAX_TRANSFORMS}")
        for number, matrix in enumerate(transforms, 1):
            _check_transform(matrix, f"{where}, transform.{number}")
        return cls(unpack_prior(packed, f"{where}, prior"), transforms)


def _check_transform(matrix: npt.NDArray[Any], where: str) -> None:
    if (
        matrix.dtype != np.int16
        or matrix.ndim != 2
        or matrix.shape[0] != matrix.shape[1]
        or not 2 <= matrix.shape[0] <= 64
    ):
        raise FormatError(where, f"{matrix.dtype} {matrix.shape}", "int16 [g, g], g from 2 to 64")
    basis = matrix.astype(np.float64) / (1 << SCALE_BITS)
    error = float(np.abs(basis @ basis.T - np.eye(matrix.shape[0])).max())
    # Rounding to 2^-14 is 0.0005 away at most; what is farther would show as error at high rates.
    if error > 0.001:
        raise FormatError(where, f"a matrix {error:.4f} away from orthonormal", "at most 0.001")
