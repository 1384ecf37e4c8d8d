"""Allocation: one price of error for all blocks, and a total that is what was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.importance import DISTORTION
from nwc_core.rate_curve import RATES, RateCurve
from nwc_workflows.allocate import LEAST_RATE, Lossless, Unreached, allocate, bits_for, predicted_loss

HIGHEST = float(RATES[-1])


def curve(numel, sensitivity, slope=2.0):
    """log2 of theta falls by `slope` with every bit, as in theory by 2."""
    return RateCurve(numel, sensitivity - slope * RATES)


CURVES = st.builds(curve, st.integers(1024, 1 << 24), st.floats(-40, 10), st.floats(1.5, 2.5))
BLOCKS = st.lists(
    st.one_of(
        CURVES,
        st.builds(Unreached, st.integers(1024, 1 << 20)),
        st.builds(
            lambda numel, share: Lossless(numel, int(numel * share)), st.integers(1024, 1 << 16), st.floats(0, 1)
        ),
    ),
    min_size=1,
    max_size=12,
)


def spent(blocks, rates):
    return sum(
        8 * block.nbytes if isinstance(block, Lossless) else rate * block.numel
        for block, rate in zip(blocks, rates, strict=True)
    )


@given(BLOCKS, st.floats(2.0, 8.0))
def test_the_budget_is_spent_and_the_last_bit_buys_the_same_everywhere(blocks, bits):
    found = allocate(blocks, bits)
    budget = bits * sum(block.numel for block in blocks)
    pairs = list(zip(blocks, found.rates, strict=True))
    assert all(rate >= LEAST_RATE for _, rate in pairs)
    free = [(c, rate) for c, rate in pairs if isinstance(c, RateCurve) and LEAST_RATE < rate < HIGHEST]
    if free:
        least = spent(blocks, [LEAST_RATE] * len(blocks))  # what is stored without loss may take it all
        assert spent(blocks, found.rates) == pytest.approx(max(budget, least), rel=1e-6)
        thetas = [float(np.interp(rate, RATES, c.log2_theta)) for c, rate in free]
        assert max(thetas) - min(thetas) < 1e-6
    for c, rate in pairs:  # what is at a bound would go beyond it at that price
        if free and isinstance(c, RateCurve) and rate == LEAST_RATE:
            assert c.log2_theta[0] <= thetas[0] + 1e-6
        if free and isinstance(c, RateCurve) and rate == HIGHEST:
            assert c.log2_theta[-1] >= thetas[0] - 1e-6


@given(st.lists(CURVES, min_size=2, max_size=6), st.floats(3.0, 6.0), st.integers(0, 5), st.integers(0, 5))
def test_no_bit_is_better_spent_elsewhere(curves, bits, giver, taker):
    """Moving a few bits from one block to another never lowers the loss, and neither do equal rates.

    The loss is the integral of theta; `predicted_loss` is that for curves of slope 2, so all have it here.
    """
    curves = [curve(c.numel, float(c.log2_theta[0])) for c in curves]
    found = allocate(curves, bits)
    assert found.loss <= predicted_loss(curves, [bits] * len(curves)) * (1 + 1e-9)
    giver, taker = giver % len(curves), taker % len(curves)
    moved = list(found.rates)
    step = 0.01 * min(curves[giver].numel, curves[taker].numel)
    moved[giver] -= step / curves[giver].numel
    moved[taker] += step / curves[taker].numel
    if moved[giver] >= LEAST_RATE and moved[taker] <= HIGHEST:
        # Curves are lines between their points, so the slopes are equal up to what that leaves.
        assert predicted_loss(curves, moved) >= found.loss * (1 - 1e-3)


def test_sensitive_blocks_get_half_a_bit_for_each_doubling():
    sensitive, robust = allocate([curve(1 << 20, 4.0), curve(1 << 20, 0.0)], 4.0).rates
    assert (sensitive, robust) == (pytest.approx(5.0), pytest.approx(3.0))


def test_blocks_without_statistics_get_the_average():
    found = allocate([curve(1 << 20, 8.0), Unreached(1 << 19), curve(1 << 20, 0.0)], 4.0)
    assert found.rates == (pytest.approx(6.0), pytest.approx(4.0), pytest.approx(2.0))
    assert allocate([Unreached(5000)], 3.5).rates == (3.5,)
    assert allocate([Unreached(5000)], 3.5).loss == 0.0


def test_what_lossless_blocks_leave_goes_to_the_others():
    found = allocate([Lossless(1000, 0), curve(1000, 0.0)], 3.0)
    assert found.rates[1] == pytest.approx(6.0)
    assert allocate([Lossless(1000, 10_000), curve(1000, 0.0)], 3.0).rates[1] == LEAST_RATE


def test_rates_beyond_the_curves_are_equal():
    assert allocate([curve(1000, 8.0), curve(1000, 0.0)], 14.0).rates == (14.0, 14.0)


def test_the_predicted_loss_is_that_of_equal_slopes():
    curves = [curve(1 << 20, 4.0), curve(1 << 18, 0.0)]
    found = allocate(curves, 4.0)
    log2_theta = float(np.interp(found.rates[0], RATES, curves[0].log2_theta))
    assert found.loss == pytest.approx(DISTORTION / 2 * 2**log2_theta * (1 << 20) * 1.25)


@given(st.lists(CURVES, min_size=1, max_size=5), st.floats(1.0, 10.0))
def test_bits_for_a_loss_is_the_inverse(curves, bits):
    found = allocate(curves, bits)
    if all(LEAST_RATE < rate < HIGHEST for rate in found.rates):
        assert bits_for(curves, found.loss) == pytest.approx(bits, abs=1e-6)


def test_bits_for_a_loss_without_curves():
    assert bits_for([Unreached(5000)], 0.1) == LEAST_RATE
