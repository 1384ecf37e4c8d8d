"""A stream decoded piece by piece, on any number of threads, gives what its points give all at once."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
import torch
from codec_samples import sample_codec
from hand_streams import segments_of
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_synthesis import synthesise

from nwc_core import fused, synthesis
from nwc_core.basis import COLUMNS, ROWS, Basis
from nwc_core.errors import FormatError
from nwc_core.matrix_stream import MatrixHeader, MatrixStream
from nwc_core.rans import MAX_LANES
from nwc_core.scales import Scales

CODEC = sample_codec()


def make_stream(
    m: int,
    n: int,
    *,
    seed: int = 0,
    lanes: int = 3,
    lines: int = 5,
    by_columns: bool = False,
    transform: int = 0,
    axis: int | None = None,
    absolute: tuple[bool, bool] = (False, False),
) -> tuple[MatrixStream, npt.NDArray[np.int32]]:
    """A stream with scales and steps of its own in every row and column, a basis of an axis if given, and its points."""
    rng = np.random.default_rng(seed)
    bases = () if axis is None else (Basis(axis, rng.integers(1, 50, (m if axis == ROWS else n, 1)).astype(np.int32)),)
    header = MatrixHeader(
        m=m,
        n=n,
        shape=0,
        n_states=8,
        transform=transform,
        bases=bases,
        by_columns=by_columns,
        lanes=lanes,
        step=np.float32(0.3),
        row_exponent=rng.integers(-20, 21, m).astype(np.int32),
        column_exponent=rng.integers(-20, 21, n).astype(np.int32),
        absolute=absolute,
        scales=Scales(40, *(rng.integers(-9, 10, size).astype(np.int32) for size in (m, n)), 1, 0),
        lines=lines,
    )
    segments, points = segments_of(header, CODEC.prior, rng)
    return MatrixStream(header, segments), points


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(1, 40),
    groups=st.integers(1, 5),
    seed=st.integers(0, 1 << 30),
    lanes=st.integers(1, MAX_LANES),
    lines=st.integers(1, 50),
    by_columns=st.booleans(),
    transform=st.integers(0, 1),
    axis=st.sampled_from([None, COLUMNS, ROWS]),
    absolute=st.tuples(st.booleans(), st.booleans()),
    piece=st.sampled_from([1, 64, 1 << 18]),
    threads=st.sampled_from([1, 3]),
)
def test_pieces_and_threads_change_nothing(
    m: int,
    groups: int,
    seed: int,
    lanes: int,
    lines: int,
    by_columns: bool,
    transform: int,
    axis: int | None,
    absolute: tuple[bool, bool],
    piece: int,
    threads: int,
) -> None:
    n = 9 * groups
    m = max(m, 2) if axis == ROWS else m  # there is no basis of one row
    stream, points = make_stream(
        *(m, n),
        **{"seed": seed, "lanes": lanes, "lines": lines, "by_columns": by_columns},
        **{"transform": transform, "axis": axis, "absolute": absolute},
    )
    assert (stream.points(CODEC.prior, "x", threads) == points).all()
    header = stream.header
    steps, matrix = (header.step, header.row_exponent, header.column_exponent), CODEC.transforms[0]
    expected = synthesise(points, *steps, header.bases, matrix if transform else None)
    with (
        patch.object(synthesis, "PIECE_WEIGHTS", piece),
        patch.object(synthesis, "_MIN_LINES", 1),
        patch.object(fused, "_PIECE_WEIGHTS", piece),
    ):
        weights, short = np.empty((m, n), np.float32), np.empty((m, n), np.uint16)
        stream.weights_into(weights, CODEC.prior, CODEC.transforms, "x", threads)
        stream.weights_into(short, CODEC.prior, CODEC.transforms, "x", threads)
    assert (weights.view(np.uint32) == expected.view(np.uint32)).all()
    assert torch.equal(torch.from_numpy(short).view(torch.bfloat16), torch.from_numpy(expected).to(torch.bfloat16))


@pytest.mark.parametrize("by_columns", [False, True])
def test_damage_in_any_segment_is_an_error(by_columns: bool) -> None:
    stream, _ = make_stream(20, 18, by_columns=by_columns)
    for index, segment in enumerate(stream.segments):
        segments = list(stream.segments)
        segments[index] = replace(segment, words=segment.words[:-1])
        with pytest.raises(FormatError, match="layer 3"):
            out = np.empty((20, 18), np.float32)
            MatrixStream(stream.header, segments).weights_into(out, CODEC.prior, CODEC.transforms, "layer 3")
