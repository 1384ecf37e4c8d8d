"""The contract between the codec, which knows tensors, and an architecture, which codes one float32 matrix.

The codec takes care of layout, of lossless fallbacks, of the wire format around the matrices and of the error. A matrix coder
turns a matrix [m, n] into bytes near a wanted rate and back, bit for bit alike on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nwc_core.dequantise import Weights
from nwc_core.importance import Importance
from nwc_core.wire import ByteReader


@dataclass(frozen=True)
class CodedMatrix:
    """What encoding a matrix gives.

    Attributes:
        data: the stream, everything that decoding needs besides m, n and the coder.
        side_nbytes: how many of its bytes are not coded weights.
        weights: [m, n] what the stream decodes to.
    """

    data: bytes = field(repr=False)
    side_nbytes: int
    weights: npt.NDArray[np.float32] = field(repr=False)


class ReadMatrix(Protocol):
    """A stream whose header and sizes were read and checked; no memory was taken for the weights yet."""

    def weights_into(self, out: Weights, where: str, threads: int = 1) -> None:
        """Decode into `out` [m, n], float32 or the bits of bfloat16; the result does not depend on `threads`.

        Raises:
            FormatError: the stream is damaged, or was coded with another codec; `where` names the matrix.
        """


class MatrixCoder(Protocol):
    """One architecture, trained."""

    @property
    def architecture(self) -> str:
        """Its name in codec files."""

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
        """Code a matrix.

        Args:
            matrix: [m, n], finite, contiguous.
            bits: wanted rate in bits per weight, side information included.
            n_states: how hard to search, for a coder that searches.
            taps: columns that belong to one convolution kernel, 1 where there is none.
            threads: to work on; the result does not depend on it.
            importance: of the errors; None if all count alike.

        Raises:
            Unsuitable: the matrix is outside of what the format can hold (see `nwc_core.quantise`).
        """

    def read(self, reader: ByteReader, m: int, n: int) -> ReadMatrix:
        """Take a stream apart, up to and not including its end.

        Raises:
            FormatError: it is damaged.
        """

    def arrays(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """What the codec file holds, in order."""
