"""Segments for a header made by hand: points that its trellis allows, of about the size that its levels expect."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.column_tiles import to_tiles
from nwc_core.feedback import search_columns
from nwc_core.matrix_stream import MatrixHeader
from nwc_core.prior import LEVEL_ZERO, OCTAVE, Prior
from nwc_core.rans import Segment, encode_segment
from nwc_core.scales import levels_of
from nwc_core.trellis import search, transitions


def segments_of(
    header: MatrixHeader, prior: Prior, rng: np.random.Generator
) -> tuple[list[Segment], npt.NDArray[np.int32]]:
    """(segments, points [m, n])."""
    tables, spans = prior.tables[header.shape], header.segments()
    level = levels_of(*header.level_axes)
    u = (rng.standard_normal(level.shape) * 2.0 ** ((level - float(LEVEL_ZERO)) / OCTAVE)).astype(np.float32)
    if header.by_columns:
        no_feedback = np.zeros((header.n, header.n), np.float32)
        lines = search_columns(u, *header.level_axes, header.n_states, tables, no_feedback)
        flat = [to_tiles(lines[first:last], header.lanes) for first, last in spans]
        points = lines.T
    else:
        flat = [
            search(u[a:b].reshape(-1), header.levels(a, b), header.lanes, header.n_states, tables) for a, b in spans
        ]
        points = np.concatenate(flat).reshape(header.m, header.n)
    moves = transitions(header.n_states)
    segments = [
        encode_segment(some, header.levels(*span), header.lanes, moves, tables, header.column)
        for some, span in zip(flat, spans, strict=True)
    ]
    return segments, np.ascontiguousarray(points)
