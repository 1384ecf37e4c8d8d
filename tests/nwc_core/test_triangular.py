"""Triangular roots by halves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.errors import UsageError
from nwc_core.triangular import _by_halves, upper_root


@given(n=st.integers(1, 300), seed=st.integers(0, 9))
def test_the_root_and_its_inverse(n: int, seed: int) -> None:
    inputs = np.random.default_rng(seed).standard_normal((2 * n + 5, n))
    h = (inputs.T @ inputs / n).astype(np.float32)
    root, inverse = upper_root(h)
    assert (np.tril(root, -1) == 0).all()
    assert (np.tril(inverse, -1) == 0).all()
    assert np.allclose(root @ root.T, h, atol=1e-4)
    assert np.allclose(root @ inverse, np.eye(n), atol=1e-3)


def test_what_float32_cannot_factorise_float64_can() -> None:
    """More inputs than data, and hardly any damping."""
    inputs = np.random.default_rng(0).standard_normal((20, 400))
    h = (inputs.T @ inputs / 20).astype(np.float32)
    h[np.diag_indices(400)] *= np.float32(1 + 1e-6)
    with pytest.raises(np.linalg.LinAlgError):
        _by_halves(h)
    root, _ = upper_root(h)
    assert np.allclose(root @ root.T, h, atol=1e-5)


def test_no_root() -> None:
    with pytest.raises(UsageError, match="hessian: found directions of negative weight"):
        upper_root(-np.eye(200, dtype=np.float32))
