"""The search for a quality: few trials, the best of them good enough and near the least."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.errors import UsageError
from nwc_workflows.search import MOST_TRIALS, Tried, next_bits, slope_of
from nwc_workflows.targets import Target

LEAST, MOST = 0.25, 12.0


def search(metric, measure, target, first):
    """(trials, the best of them or None)."""
    tried, bits = [], first
    while bits is not None:
        assert LEAST <= bits <= MOST
        tried.append(Tried(bits, measure(bits)))
        assert len(tried) <= MOST_TRIALS
        bits = next_bits(tried, target, slope_of(metric), LEAST, MOST)
    return tried, min((t.bits for t in tried if t.value <= target), default=None)


@given(
    st.floats(0.8, 1.3),
    st.floats(-3, 6),
    st.floats(0.001, 0.1),
    st.floats(1.5, 7),
    st.sampled_from(["kl", "rel-error", "top1-drop"]),
)
def test_a_quality_is_met_near_its_least_rate(steepness, level, target, first, metric):
    """Errors that fall a little faster or slower than they should."""
    slope = steepness * slope_of(metric)

    def measure(bits):
        return math.exp(level - slope * bits)

    least = (level - math.log(target)) / slope
    tried, best = search(metric, measure, target, first)
    if LEAST + 0.1 < least < MOST - 0.1:
        assert best is not None
        assert measure(best) > 0.88 * target
        assert len(tried) <= 4
    if least > MOST:
        assert best is None
        assert tried[-1].bits == MOST


@given(st.integers(0, 1000), st.floats(0.2, 2.0), st.floats(2, 6))
def test_a_metric_in_steps_and_with_noise_is_met_too(seed, target, first):
    """Accuracy: single images, now and then better than the original."""

    def measure(bits):
        noise = math.sin(1e4 * bits + seed)
        return round(20 * math.exp(6 - 1.4 * bits) + 2 * noise) / 10

    _, best = search("top1-drop", measure, target, first)
    assert best is not None
    assert measure(best) <= target


def test_a_first_guess_that_is_right_is_enough():
    assert search("kl", lambda bits: 0.0098, 0.01, 4.0)[0] == [Tried(4.0, 0.0098)]


def test_no_loss_to_be_seen_leads_to_fewer_bits():
    tried, best = search("top1-drop", lambda bits: 0.0, 0.5, 6.0)
    assert [trial.bits for trial in tried] == [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert best == 1.0


def test_between_no_loss_and_too_much_the_search_halves():
    tried, best = search("top1-drop", lambda bits: 3.0 if bits < 4.2 else 0.0, 0.3, 5.0)
    assert [trial.bits for trial in tried] == [5.0, 4.0, 4.5, 4.25]
    assert best == 4.25


def test_what_no_rate_meets_ends_at_the_highest():
    tried, best = search("kl", lambda bits: 1.0, 0.01, 4.0)
    assert best is None
    assert tried[-1].bits == MOST


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("kl=0.01", Target("kl", 0.01)),
        ("rel-error=5e-2", Target("rel-error", 0.05)),
        ("top1-drop=1", Target("top1-drop", 1.0)),
    ],
)
def test_targets_as_text(text, target):
    assert Target.parse(text, "--quality") == target
    assert Target.parse(str(target), "--quality") == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mse=1", "--quality: metric: found 'mse'; wanted one of kl, rel-error, top1-drop; for example"),
        ("kl", "--quality: found 'kl'; wanted METRIC=VALUE; for example kl=0.01"),
        ("kl=low", "--quality: found 'kl=low'; wanted METRIC=VALUE"),
        ("kl=0", "--quality: kl: found 0.0; wanted a number above 0"),
        ("kl=nan", "--quality: kl: found nan; wanted a number above 0"),
        ("kl=inf", "--quality: kl: found inf; wanted a number above 0"),
        ("=1", "--quality: metric: found ''; wanted one of"),
    ],
)
def test_targets_that_are_refused(text, message):
    with pytest.raises(UsageError) as caught:
        Target.parse(text, "--quality")
    assert message in str(caught.value)
