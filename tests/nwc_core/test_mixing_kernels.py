"""Bases undone in compiled code: the bits of the formula, for every remainder of rows and columns, on any thread."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_synthesis import synthesise

from nwc_core import basis as basis_module
from nwc_core import synthesis as module
from nwc_core.basis import COLUMNS, ROWS, Basis
from nwc_core.exact import Inexact
from nwc_core.synthesis import Synthesis


def basis_of(axis: int, size: int, rank: int, reach: int, seed: int) -> Basis:
    rng = np.random.default_rng(seed)
    vectors = np.tril(rng.integers(-reach, reach + 1, (size, rank)))
    vectors[np.arange(rank), np.arange(rank)] = reach
    return Basis(axis, vectors.astype(np.int32))


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_module, "most_rank", lambda: 1000)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axis=st.sampled_from([COLUMNS, ROWS]),
    size=st.sampled_from([64, 96, 100, 160]),
    other=st.integers(1, 70),
    rank=st.integers(1, 13),
    spread=st.sampled_from([0, 3, 64]),
    reach=st.sampled_from([1, 300, (1 << 22) - 1]),
    offset=st.integers(0, 5),
    piece=st.sampled_from([1, 1 << 16]),
    seed=st.integers(0, 1 << 30),
)
def test_the_bits_of_the_formula(
    axis: int, size: int, other: int, rank: int, spread: int, reach: int, offset: int, piece: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    m, n = (other, size) if axis == COLUMNS else (size, other)
    points = rng.integers(-reach, reach + 1, (m, n)).astype(np.int32)
    exponents = [rng.integers(-spread // 2, spread - spread // 2 + 1, k).astype(np.int32) for k in (m, n)]
    basis = basis_of(axis, size, rank, 40, seed)
    given = (np.float32(0.0123), *exponents)
    try:
        expected = synthesise(points, *given, (basis,))
    except Inexact:
        return
    undoing = Synthesis(*given, (basis,), None)
    with patch.object(module, "PIECE_WEIGHTS", piece), patch.object(module, "_MIN_LINES", 7):
        for out in np.empty((m, n), np.float32), np.empty((m, n), np.uint16):
            undoing.place_all(points, out, 2)
            wanted = expected.view(np.uint32)
            if out.dtype == np.uint16:
                wanted = torch.from_numpy(expected).bfloat16().view(torch.uint16).numpy()
            assert (out.view(wanted.dtype) == wanted).all()
    # From a wider array, as a segment of columns is.
    wide = np.concatenate([np.zeros((m, offset), np.int32), points], axis=1)
    out = np.zeros((m, n), np.float32)
    undoing.place(wide, slice(None), slice(0, n), out, offset)
    assert (out.view(np.uint32) == expected.view(np.uint32)).all()


def test_the_kernels_are_what_runs() -> None:
    basis = basis_of(COLUMNS, 64, 5, 9, 0)
    points = np.ones((9, 64), np.int32)
    zeros = [np.zeros(k, np.int32) for k in points.shape]
    out = np.empty(points.shape, np.float32)
    with patch.object(module, "mix_rows") as kernel:
        Synthesis(np.float32(1), *zeros, (basis,), None).place_all(points, out, 1)
    assert [call.args[0].shape for call in kernel.call_args_list] == [(8, 64)]
    with patch.object(module, "mix_rows") as kernel, patch.object(basis_module, "_KERNEL_NBYTES", 64 * 5 * 8 - 1):
        Synthesis(np.float32(1), *zeros, (basis,), None).place_all(points, out, 1)
    assert not kernel.called
    with patch.object(module, "mix_rows") as kernel, patch.object(basis_module, "most_rank", lambda: 4):
        Synthesis(np.float32(1), *zeros, (basis,), None).place_all(points, out, 1)
    assert not kernel.called


@pytest.mark.parametrize("axis", [COLUMNS, ROWS])
def test_points_too_large_are_refused(axis: int) -> None:
    basis = basis_of(axis, 64, 20, 1 << 12, 0)
    points = np.full((64, 64), (1 << 22) - 1, np.int32)
    spread = np.arange(64, dtype=np.int32)
    with pytest.raises(Inexact):
        Synthesis(np.float32(1), spread, spread, (basis,), None).place_all(points, np.empty((64, 64), np.float32), 1)
