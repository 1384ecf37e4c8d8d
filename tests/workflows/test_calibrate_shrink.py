"""Sums become statistics: what is mixed in, how much of it, and that nothing is lost or invented."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nwc_workflows.calibration.shrink import Scatter, smooth_rows
from nwc_workflows.calibration.sums import SKETCH_ROWS, WeightSums
from nwc_workflows.calibration.triangles import diagonal_places, pack, triangle_size, unpack

N = 12


def chunks(samples, count=8, n=N, seed=0, spread=None):
    """Sums of x x' of so many samples in each of so many chunks, packed."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(1, 30, n) if spread is None else spread
    return [pack(x.T @ x) for x in (rng.standard_normal((samples, n)) * scale for _ in range(count))]


def scatter_of(packed, n=N):
    scatter = Scatter(n)
    for chunk in packed:
        scatter.add(chunk)
    return scatter


@pytest.mark.parametrize("n", [1, 2, 5, 33])
def test_triangles(n):
    matrix = np.random.default_rng(n).standard_normal((n, n))
    matrix += matrix.T
    packed = pack(matrix)
    assert packed.shape == (triangle_size(n),)
    np.testing.assert_array_equal(packed, matrix[np.triu_indices(n)])
    np.testing.assert_array_equal(unpack(packed, n), matrix)
    np.testing.assert_array_equal(packed[diagonal_places(n)], np.diag(matrix))


def test_the_scatter_of_chunks_is_what_its_formula_says():
    """Against the same with whole matrices and a second pass."""
    packed = chunks(20)
    whole = [unpack(chunk, N) for chunk in packed]
    mean = sum(whole) / np.trace(sum(whole)) * N
    apart = [matrix * N / np.trace(sum(whole)) - np.trace(matrix) / np.trace(sum(whole)) * mean for matrix in whole]
    variance = sum((matrix**2).sum() for matrix in apart) * 8 / 7
    wanted = variance / ((mean - np.eye(N)) ** 2).sum()
    found, share = scatter_of(packed).shrunk()
    assert share == pytest.approx(wanted, rel=1e-9)
    np.testing.assert_allclose(unpack(found, N), (1 - wanted) * mean + wanted * np.eye(N), rtol=1e-9, atol=1e-9)


def test_more_data_is_trusted_more_and_brings_the_matrix_closer():
    truth = np.diag(np.geomspace(1, 30, N) ** 2)
    truth *= N / np.trace(truth)
    shares, errors = [], []
    for samples in (2, 20, 200, 2000):
        found, share = scatter_of(chunks(samples)).shrunk()
        shares.append(share)
        errors.append(((unpack(found, N) - truth) ** 2).sum())
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.002
    assert errors == sorted(errors, reverse=True)


def test_shrinking_helps_where_data_is_short():
    """On average over draws it is closer to the truth than what was measured."""
    truth = np.eye(N)
    better = 0
    for seed in range(20):
        scatter = scatter_of(chunks(2, seed=seed, spread=np.ones(N)))
        raw = unpack(scatter.sum, N) * N / scatter.trace
        better += ((unpack(scatter.shrunk()[0], N) - truth) ** 2).sum() < ((raw - truth) ** 2).sum()
    assert better == 20


def test_what_repeats_within_a_chunk_is_no_evidence():
    once = chunks(3)
    _, share = scatter_of(once).shrunk()
    _, repeated = scatter_of([100 * chunk for chunk in once]).shrunk()
    assert repeated == pytest.approx(share)


@pytest.mark.parametrize("prior", [None, "other"])
def test_without_data_the_prior_is_all(prior):
    prior = None if prior is None else 2 * pack(np.diag(np.arange(N) / (N - 1.0)))
    found, share = scatter_of([np.zeros(triangle_size(N))] * 3).shrunk(prior)
    assert share == 1.0
    np.testing.assert_array_equal(found, pack(np.eye(N)) if prior is None else prior)


def test_one_chunk_counts_half():
    packed = chunks(50, count=1)
    found, share = scatter_of(packed + [np.zeros(triangle_size(N))] * 3).shrunk()
    assert share == 0.5
    assert found[diagonal_places(N)].mean() == pytest.approx(1.0)


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 100)), min_size=3, max_size=3), min_size=1, max_size=4
    )
)
def test_rows_keep_their_total_and_none_is_nothing(matrices):
    energies = [np.array([e if c else 0.0 for e, c in rows]) for rows in matrices]
    counts = [np.array([c for _, c in rows]) for rows in matrices]
    total = sum(e.sum() for e in energies)
    found = smooth_rows(energies, counts)
    assert sum(e.sum() for e in found.energies) == pytest.approx(total)
    assert all(0 <= share <= 1 for share in found.shares)
    if total > 1e-200:
        assert all((e > 0).all() for e in found.energies)


def test_rows_that_were_often_met_keep_their_own_energy():
    (found,) = smooth_rows([np.array([1000.0, 3000.0, 0.0])], [np.array([1000, 1000, 0])]).energies
    assert found[1] / found[0] == pytest.approx(3, rel=0.02)
    assert 0 < found[2] < found[0] / 500


def gradients(count, m, n, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn((1, m, n), generator=random) for _ in range(count)]


def places(k, m, n):
    return np.arange(k), np.arange(m), np.arange(n)


def test_sums_are_exact_up_to_so_many_rows():
    of = gradients(40, SKETCH_ROWS, 5)
    sums = WeightSums((1, SKETCH_ROWS, 5))
    for gradient in of:
        sums.add_gradient(gradient, places(1, SKETCH_ROWS, 5), torch.Generator())
    sums.finish()
    wanted = sum((gradient[0].double().T @ gradient[0].double()).numpy() for gradient in of)
    np.testing.assert_allclose(sums.hessian[0].numpy(), wanted, rtol=1e-5, atol=1e-2)
    assert sums.counts.unique().tolist() == [40]


def test_more_rows_are_estimated_without_bias():
    m, n, items = 4 * SKETCH_ROWS, 6, 60
    (gradient,) = gradients(1, m, n)
    exact = (gradient[0].double().T @ gradient[0].double()).numpy()
    sums = WeightSums((1, m, n))
    for seed in range(items):
        sums.add_gradient(gradient, places(1, m, n), torch.Generator().manual_seed(seed))
    sums.finish()
    error = np.abs(sums.hessian[0].numpy() / items - exact).max() / np.trace(exact)
    assert error < 0.01  # one estimate alone is off by 2 to 4 % of the trace
    np.testing.assert_allclose(sums.rows[0].numpy() / items, gradient[0].double().square().sum(1), rtol=1e-5)


def test_only_rows_with_a_gradient_count():
    gradient = torch.zeros((1, 5, 3))
    gradient[0, 1] = 2.0
    sums = WeightSums((1, 5, 3))
    sums.add_gradient(gradient, places(1, 5, 3), torch.Generator())
    sums.finish()
    assert sums.counts.tolist() == [[0, 1, 0, 0, 0]]
    np.testing.assert_allclose(sums.rows, [[0.0, 12.0, 0.0, 0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(sums.hessian[0], np.full((3, 3), 4.0))


def test_parts_are_added_where_they_belong():
    sums = WeightSums((2, 4, 3))
    part = torch.ones((1, 2, 2))
    sums.add_gradient(part, (np.array([1]), np.array([3, 0]), np.array([2, 0])), torch.Generator())
    sums.add_inputs(0, torch.tensor([[1.0, 2.0]]), np.array([0, 1]))
    sums.finish()
    np.testing.assert_allclose(sums.rows, [[0.0] * 4, [2.0, 0.0, 0.0, 2.0]], rtol=1e-6)
    np.testing.assert_array_equal(sums.hessian[1], [[2, 0, 2], [0, 0, 0], [2, 0, 2]])
    np.testing.assert_array_equal(sums.hessian[0], [[1, 2, 0], [2, 4, 0], [0, 0, 0]])


def test_wide_matrices_are_summed_in_bands():
    m, n = 3, 1300
    (gradient,) = gradients(1, m, n)
    sums = WeightSums((1, m, n))
    sums.add_gradient(gradient, places(1, m, n), torch.Generator())
    sums.finish()
    exact = (gradient[0].T @ gradient[0]).numpy()
    np.testing.assert_allclose(pack(sums.hessian[0].numpy()), pack(exact), atol=1e-5)
