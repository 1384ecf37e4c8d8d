"""The last pass of the nwc encoder on its own: transform, scales, step and tables are known, the points are searched for
and coded.

`Codec.encode` does this once where its first step meets the rate; what it takes longer goes into finding the step, the
tables and the transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nwc_core import steps, transform
from nwc_core.codec import Codec
from nwc_core.encoded import EncodedTensor
from nwc_core.matrices import default_layout
from nwc_core.matrix_stream import MatrixStream
from nwc_core.prior import ShapeTables
from nwc_core.rans import Segment, encode_segment
from nwc_core.threads import map_threads
from nwc_core.trellis import search, transitions
from nwc_workflows.bench.code_length import matrix_streams

Points = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Piece:
    """A segment of a matrix as the search sees it: weights in steps, and their levels."""

    u: npt.NDArray[np.float32]
    level: npt.NDArray[np.uint8]


class OnePass:
    """Repeats the last pass for a tensor that was encoded without calibration; gives the very same points and segments."""

    def __init__(self, codec: Codec, weight: torch.Tensor, encoded: EncodedTensor) -> None:
        self._codec = codec
        matrices = (
            default_layout(tuple(weight.shape)).to_matrices(weight.float().numpy()).astype(np.float32, copy=False)
        )
        self._work = list(zip(matrices, matrix_streams(codec, encoded), strict=True))
        self._pieces = [self._prepare(matrix, stream) for matrix, stream in self._work]
        self._points = self.search()

    def run(self, threads: int) -> list[list[Segment]]:
        """Transform, levels, search and entropy coder, segments side by side on `threads` threads."""
        out = []
        for matrix, stream in self._work:
            values, tables = self._coefficients(matrix, stream), self._tables(stream)

            def one(index: int) -> Segment:
                piece = _piece(values, stream, index)  # noqa: B023  called before the loop goes on
                return _code(_search(piece, stream, tables), piece, stream, tables)  # noqa: B023

            out.append(map_threads(one, range(len(stream.segments)), threads))
        return out

    def search(self) -> list[list[Points]]:
        """The search alone, one thread."""
        return [
            [_search(piece, stream, self._tables(stream)) for piece in pieces]
            for (_, stream), pieces in zip(self._work, self._pieces, strict=True)
        ]

    def code(self) -> list[list[Segment]]:
        """The entropy coder alone, one thread."""
        return [
            [
                _code(points, piece, stream, self._tables(stream))
                for points, piece in zip(of_matrix, pieces, strict=True)
            ]
            for (_, stream), pieces, of_matrix in zip(self._work, self._pieces, self._points, strict=True)
        ]

    def _tables(self, stream: MatrixStream) -> ShapeTables:
        return self._codec.prior.tables[stream.header.shape]

    def _prepare(self, matrix: npt.NDArray[np.float32], stream: MatrixStream) -> list[_Piece]:
        values = self._coefficients(matrix, stream)
        return [_piece(values, stream, index) for index in range(len(stream.segments))]

    def _coefficients(self, matrix: npt.NDArray[np.float32], stream: MatrixStream) -> npt.NDArray[np.float32]:
        header = stream.header
        if header.transform:
            matrix = transform.analyse(matrix, self._codec.transforms[header.transform - 1])
        for basis in header.bases:
            matrix = basis.analyse(matrix)
        return matrix


def _piece(values: npt.NDArray[np.float32], stream: MatrixStream, index: int) -> _Piece:
    header = stream.header
    first, last = header.segments()[index]
    inverse = np.float32(1) / (header.step * steps.power(header.row_exponent[first:last]))
    u = (values[first:last] * inverse[:, None]).reshape(-1)
    return _Piece(u, header.levels(first, last))


def _search(piece: _Piece, stream: MatrixStream, tables: ShapeTables) -> Points:
    return search(piece.u, piece.level, stream.header.lanes, stream.header.n_states, tables)


def _code(points: Points, piece: _Piece, stream: MatrixStream, tables: ShapeTables) -> Segment:
    return encode_segment(points, piece.level, stream.header.lanes, transitions(stream.header.n_states), tables)
