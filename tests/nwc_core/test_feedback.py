"""Quantising with feedback: the loss that it makes small, and the tensors that it is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from codec_samples import gaussian, sample_codec
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.codec import Codec
from nwc_core.column_tiles import from_tiles, to_tiles
from nwc_core.decorrelate import Parts
from nwc_core.errors import UsageError
from nwc_core.feedback import search_columns
from nwc_core.importance import DAMPING, exponents, factorise
from nwc_core.nwc_coder import NwcCoder
from nwc_core.prior import LEVEL_ZERO, OCTAVE
from nwc_core.rans import MAX_LANES
from nwc_core.trellis import STATES, transitions

CODEC = sample_codec()


def _hessian(n: int, correlation: float = 0.9, seed: int = 0) -> torch.Tensor:
    """Second moment of inputs, each of which is like its neighbour, and which differ in scale."""
    inputs = gaussian(8 * n, n, seed=seed)
    for j in range(1, n):
        inputs[:, j] = correlation * inputs[:, j - 1] + (1 - correlation**2) ** 0.5 * inputs[:, j]
    inputs *= torch.logspace(-0.5, 0.5, n)
    return inputs.T @ inputs / len(inputs)


def _loss(weight: torch.Tensor, hessian: torch.Tensor, rows: torch.Tensor, /, **options: torch.Tensor) -> float:
    """Per weight, at 4 bits, of the weights as decoded from bytes."""
    error = (CODEC.decode(CODEC.encode(weight, 4.0, **options)) - weight).double()
    return float((rows.double()[:, None] * error * (error @ hessian.double())).sum()) / weight.numel()


@given(columns=st.integers(1, 70), m=st.integers(1, 9), lanes=st.integers(1, MAX_LANES))
def test_tiles_hold_every_column_once(columns: int, m: int, lanes: int) -> None:
    lines = np.arange(columns * m).reshape(columns, m)
    flat = to_tiles(lines, lanes)
    assert (from_tiles(flat, m, lanes) == lines).all()
    for tile, first in enumerate(range(0, columns, lanes)):
        rows = flat[tile * m * lanes :][: m * min(lanes, columns - first)].reshape(m, -1)
        assert (rows == lines[first : first + lanes].T).all()


@pytest.mark.parametrize("n_states", STATES)
@pytest.mark.parametrize("m", [1, 2, 23, 32, 33, 64, 300])
def test_points_follow_the_trellis_down_every_column(n_states: int, m: int) -> None:
    n = 40
    weight = gaussian(m, n).numpy() * 5
    upper = np.triu(gaussian(n, n, seed=1).numpy() * 0.2, 1)
    rows, columns = np.full(m, LEVEL_ZERO + 2 * OCTAVE, np.int32), np.zeros(n, np.int32)
    points = search_columns(weight, rows, columns, n_states, CODEC.prior.tables[0], upper)
    moves = transitions(n_states)
    for j in range(n):
        state = 0
        for i in range(m):
            assert (points[j, i] & 1) == (state & 1)
            state = moves[state, points[j, i] >> 1 & 1]


def test_feedback_reaches_every_later_column() -> None:
    """Targets recomputed from the points: each weight is within the search's reach of its own."""
    m, n = 64, 600  # more than two panels of columns, of many blocks each
    weight = gaussian(m, n).numpy() * 8
    upper = np.triu(gaussian(n, n, seed=1).numpy() * 0.1, 1)
    rows, columns = np.full(m, LEVEL_ZERO + 3 * OCTAVE, np.int32), np.zeros(n, np.int32)
    points = search_columns(weight, rows, columns, 8, CODEC.prior.tables[0], upper).T
    error = weight - points
    targets = weight + error @ upper
    assert np.square(targets - points).mean() < 0.35  # of the step: what a trellis leaves
    assert np.square(error).mean() > 1


def test_the_factor_is_that_of_the_damped_hessian() -> None:
    hessian = _hessian(300).numpy()
    factor = factorise(hessian, bits=12.0)
    product = (factor.upper * factor.weights) @ factor.upper.T
    ridge = np.diag(product - hessian)
    assert np.allclose(product - hessian, np.diag(ridge), atol=1e-5)
    assert ridge.mean() == pytest.approx(DAMPING * np.trace(hessian) / 300, rel=0.01)
    inverse = np.linalg.inv(product)
    assert np.allclose(factor.fed, np.diag(inverse) * factor.weights - 1, rtol=1e-3, atol=1e-4)


def test_coarse_rates_are_damped_so_that_errors_stay_below_the_weights() -> None:
    hessian = _hessian(100, correlation=0.5).numpy()
    damped = [np.trace((f := factorise(hessian, bits)).upper * f.weights @ f.upper.T) for bits in (0.5, 1.5, 8.0)]
    assert damped[0] > damped[1] > damped[2]


def test_steps_fall_with_the_root_of_the_weight() -> None:
    found = exponents(np.array([1.0, 4.0, 16.0, 0.0]))
    assert found[0] - found[1] == found[1] - found[2] == OCTAVE
    assert found[3] == 32  # as far as steps may be from the middle one


def test_calibration_lowers_the_loss_at_equal_size() -> None:
    weight, hessian = gaussian(160, 128), _hessian(128)
    rows = torch.logspace(-1, 1, 160)
    plain = _loss(weight, hessian, rows)
    fed_back = _loss(weight, hessian, rows, hessian=hessian)
    both = _loss(weight, hessian, rows, hessian=hessian, rows=rows)
    by_rows = _loss(weight, torch.eye(128), rows, rows=rows)
    assert fed_back < 0.5 * plain
    assert both < 0.7 * fed_back
    assert by_rows < 0.7 * _loss(weight, torch.eye(128), rows)


@pytest.mark.parametrize("shape", [(96, 40), (40, 96)])
@pytest.mark.parametrize("preset", ["scalar", "fast", "default", "max"])
def test_the_rate_is_met_and_decoding_gives_what_encoding_said(shape: tuple[int, int], preset: str) -> None:
    weight, hessian, rows = gaussian(*shape, seed=2), _hessian(shape[1]), torch.linspace(0.1, 1.1, shape[0])
    for bits in (2.0, 4.5):
        encoded = CODEC.encode(weight, bits, preset=preset, hessian=hessian, rows=rows)
        assert encoded.bits_per_weight == pytest.approx(bits, abs=0.03)
        error = (CODEC.decode(encoded) - weight).square().mean()
        assert float(error) == pytest.approx(encoded.mse, rel=1e-6)


def test_transform_and_bases_mix_the_hessian_too() -> None:
    few_directions = gaussian(400, 72, seed=9) + 3 * gaussian(400, 3, seed=10) @ gaussian(3, 72, seed=11)
    for weight in (few_directions, few_directions.T.contiguous()):
        hessian = _hessian(weight.shape[1])
        rows = torch.ones(len(weight))
        assert _loss(weight, hessian, rows, hessian=hessian) < 0.6 * _loss(weight, hessian, rows)
    smooth = 0.2 * gaussian(32, 16, 3, 3) + gaussian(32, 16, 1, 1, seed=1)
    hessian = _hessian(16 * 9)
    encoded = CODEC.encode(smooth, 4.0, hessian=hessian)
    error = (CODEC.decode(encoded) - smooth).reshape(32, -1)
    plain = (CODEC.decode(CODEC.encode(smooth, 4.0)) - smooth).reshape(32, -1)
    assert (error * (error @ hessian)).sum() < 0.6 * (plain * (plain @ hessian)).sum()


def test_experts_have_importance_of_their_own() -> None:
    weight = gaussian(3, 64, 72)
    hessian = torch.stack([_hessian(72, correlation) for correlation in (0.0, 0.5, 0.95)])
    rows = torch.linspace(0.1, 1.1, 192).reshape(3, 64)
    error = CODEC.decode(CODEC.encode(weight, 4.0, hessian=hessian, rows=rows)) - weight
    for index, e in enumerate(error):
        loss = float((rows[index][:, None] * e * (e @ hessian[index])).sum()) / e.numel()
        alone = _loss(weight[index], hessian[index], rows[index], hessian=hessian[index], rows=rows[index])
        assert loss == pytest.approx(alone, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hessian": torch.eye(39)}, r"hessian: found shape \[39, 39\]; wanted \[40, 40\]"),
        ({"hessian": torch.full((40, 40), torch.nan)}, "hessian: found NaN"),
        ({"hessian": -torch.eye(40)}, "hessian: found directions of negative weight"),
        ({"rows": torch.ones(40)}, r"rows: found shape \[40\]; wanted \[64\]"),
        ({"rows": torch.zeros(64)}, "rows: found a weight that is not positive"),
    ],
)
def test_importance_that_does_not_fit(options: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CODEC.encode(gaussian(64, 40), 4.0, **options)


def test_dead_inputs_do_no_harm() -> None:
    """A layer behind a dead unit: H has a zero row and column."""
    hessian = _hessian(64)
    hessian[10] = hessian[:, 10] = 0
    weight = gaussian(80, 64)
    for given_hessian in (hessian, torch.zeros(64, 64)):
        decoded = CODEC.decode(CODEC.encode(weight, 4.0, hessian=given_hessian))
        assert float((decoded - weight).square().mean()) < float(weight.square().mean())


@pytest.mark.parametrize("size", [1e-29, 2e30])
def test_weights_at_the_ends_of_float32_are_read_back(size: float) -> None:
    """Steps go far up and down from the middle one, and what no decoder would take must not be written."""
    weight, rows = gaussian(64, 72) * size, torch.logspace(-3, 3, 64)
    encoded = CODEC.encode(weight, 4.0, hessian=_hessian(72), rows=rows)
    decoded = CODEC.decode(encoded)
    assert float((decoded - weight).abs().max()) < size


@pytest.mark.parametrize("scale", [1e-38, 1e30])
def test_the_scale_of_h_changes_nothing(scale: float) -> None:
    weight, hessian = gaussian(64, 72), _hessian(72)
    one, other = (CODEC.encode(weight, 4.0, hessian=h) for h in (hessian, hessian * scale))
    assert torch.equal(CODEC.decode(one), CODEC.decode(other))


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_rate_curves_where_steps_do_not_follow_the_weights(spread: float) -> None:
    """Because of their range, or because they are told not to."""
    coder = CODEC.coder
    assert isinstance(coder, NwcCoder)
    rows, weight, hessian = torch.logspace(-spread, spread, 256), gaussian(256, 96), _hessian(96, 0.0)
    for parts in (Parts(), Parts(weighted_steps=False)):
        codec = Codec.of(replace(coder, parts=parts), {})
        curve = codec.rate_curve(weight, hessian=hessian, rows=rows)
        assert curve is not None
        error = (codec.decode(codec.encode(weight, 4.0, hessian=hessian, rows=rows)) - weight).double()
        loss = float((rows.double()[:, None] * error * (error @ hessian.double())).sum()) / weight.numel()
        assert 0.28 * 2 ** curve.log2_theta[15] == pytest.approx(loss, rel=0.4)


def test_rate_curves_say_what_encoding_takes() -> None:
    """At one theta two tensors of unlike sensitivity get rates that make an error cost the same in both."""
    weight, hessian = gaussian(256, 96), _hessian(96)
    curve = CODEC.rate_curve(weight, hessian=hessian, rows=torch.ones(256))
    heavier = CODEC.rate_curve(weight, hessian=hessian, rows=torch.full((256,), 16.0))
    assert curve is not None and heavier is not None
    assert curve.numel == weight.numel()
    assert (np.diff(curve.log2_theta) < 0).all()
    theta = float(curve.log2_theta[11])  # 3 bits
    assert curve.bits_at(theta) == pytest.approx(3.0)
    assert heavier.bits_at(theta) == pytest.approx(5.0, abs=0.05)  # 16 times: two bits
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(96)
    loss = _loss(weight, damped, torch.ones(256), hessian=hessian)
    assert 0.28 * 2 ** curve.log2_theta[15] == pytest.approx(loss, rel=0.15)
    assert CODEC.rate_curve(torch.ones(5)) is None


def test_a_factor_is_kept_for_the_same_h_only():
    """An H that is added to in place is another; so is a rate at which the damping is another."""
    basis = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
    h = basis.T @ basis
    first = factorise(h, 4.0)
    assert factorise(h.copy(), 5.0) is first
    assert factorise(h, 1.0) is not first
    assert not np.array_equal(factorise(h, 1.0).upper, first.upper)
    h[0, 0] += 1
    assert not np.array_equal(factorise(h, 4.0).upper, first.upper)
