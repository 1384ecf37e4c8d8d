"""Means with intervals, and rates at equal error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from nwc_workflows.bench.measure import Measurement
from nwc_workflows.bench.results import CodecBench, TensorResult
from nwc_workflows.bench.statistics import mean_interval, rate_at
from nwc_workflows.bench.summary import BEST, compare, summarise


def points(gap: float, rates: Sequence[float], wanted: bool = True, variance: float = 1.0) -> list[Measurement]:
    """A codec that is `gap` bits above the Gaussian bound."""
    return [Measurement(rate if wanted else None, rate, variance * 2.0 ** (-2 * (rate - gap))) for rate in rates]


def test_mean_interval() -> None:
    plain = mean_interval([1.0, 2.0, 3.0, 6.0])
    assert plain.mean == 3
    assert 1 <= plain.low < 3 < plain.high <= 6
    assert mean_interval([1.0, 2.0, 3.0, 6.0], [1, 1, 1, 5]).mean == pytest.approx(4.5)
    assert mean_interval([1.0, 2.0, 3.0, 6.0]) == plain
    alone = mean_interval([0.25], [7])
    assert (alone.mean, alone.low, alone.high) == (0.25, 0.25, 0.25)
    assert math.isnan(mean_interval([]).mean)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        interval = mean_interval(rng.normal(1.0, 2.0, 60))
        inside += interval.low <= 1.0 <= interval.high
    assert 0.88 <= inside / 200 <= 0.99


def test_rate_at_equal_error() -> None:
    known = points(0.25, [2.0, 3.0, 5.0])
    for rate in (2.0, 2.4, 3.0, 4.9, 5.0, 5.8, 1.2):  # the last two beyond the measurements
        assert rate_at(2.0 ** (-2 * (rate - 0.25)), list(reversed(known))) == pytest.approx(rate)
    own = points(0.25, [2.0, 3.0], wanted=False)
    assert rate_at(2.0 ** (-2 * 2.25), own) == pytest.approx(2.5)
    assert math.isnan(rate_at(2.0 ** (-2 * 2.8), own))
    assert math.isnan(rate_at(0.01, known[:1]))
    assert math.isnan(rate_at(0.0, known))
    assert math.isnan(rate_at(0.01, [Measurement(8.0, 8.0, 1e-5), Measurement(9.0, 9.0, 1e-5)]))


@dataclass(frozen=True)
class Fake:
    """A contender with a constant gap, in place of a codec."""

    name: str
    preset: str | None = None
    own: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name}:{self.preset}" if self.preset else self.name

    @property
    def own_rates(self) -> bool:
        return bool(self.own)

    def settings(self, rates: Sequence[float]) -> Sequence[float]:
        return self.own or tuple(rates)

    def measure(self, *_: object) -> None:
        raise AssertionError


def tensor(bench: CodecBench, name: str, rows: int, gaps: dict[str, float], variance: float = 1.0) -> TensorResult:
    coded = {
        c.label: points(gaps[c.label], bench.tensor_settings(c), wanted=not c.own_rates, variance=variance)
        for c in bench.contenders
    }
    return TensorResult("model", name, "F32", (rows, 10), rows * 10, variance, coded)


OURS, FAST = Fake("ours", "default"), Fake("ours", "fast")
PAPER, NATIVE = Fake("paper"), Fake("paper:native", own=(1.5, 3.5))


def test_savings_are_those_of_the_gaps() -> None:
    bench = CodecBench([[FAST, OURS], [PAPER]], [2.0, 4.0])
    gaps = {"ours:fast": 0.1, "ours:default": 0.05, "paper": 0.3}
    tensors = [
        tensor(bench, "a", 1, gaps),
        tensor(bench, "b", 3, {**gaps, "paper": 0.5}, variance=9.0),
    ]
    found = {(c.label, c.wanted): c for c in compare(bench, tensors)}
    assert set(found) == {(label, wanted) for label in ("ours:fast", "ours:default") for wanted in (2.0, 4.0, None)}
    for wanted in (2.0, 4.0, None):
        assert found["ours:default", wanted].saved == pytest.approx((0.25, 0.45))
        assert found["ours:default", wanted].plain.mean == pytest.approx(0.35)
        assert found["ours:default", wanted].weighted.mean == pytest.approx(0.40)
        assert found["ours:fast", wanted].plain.mean == pytest.approx(0.30)
    assert {c.baseline for c in found.values()} == {"paper"}


def test_presets_meet_their_like_and_own_rates_count_only_in_between() -> None:
    bench = CodecBench([[FAST, OURS], [Fake("other", "fast"), Fake("other", "default")], [PAPER, NATIVE]], [2.0, 4.0])
    gaps = {"ours:fast": 0.1, "ours:default": 0.05, "other:fast": 0.2, "other:default": 0.1, "paper": 0.3}
    tensors = [tensor(bench, "a", 1, {**gaps, "paper:native": 0.25})]
    saved = {(c.label, c.baseline, c.wanted): c.plain.mean for c in compare(bench, tensors)}
    assert saved["ours:fast", "other:fast", 2.0] == pytest.approx(0.1)
    assert saved["ours:default", "other:default", 2.0] == pytest.approx(0.05)
    # At 2 bits the paper's own rates are on both sides and serve it better; at 4 bits they end below.
    assert saved["ours:default", "paper", 2.0] == pytest.approx(0.20)
    assert saved["ours:default", "paper", 4.0] == pytest.approx(0.25)
    assert saved["ours:default", BEST, 2.0] == pytest.approx(0.05)
    assert {label for label, _, _ in saved} == {"ours:fast", "ours:default"}


def test_a_contender_with_rates_of_its_own_is_only_compared_with() -> None:
    gaps = {"ours:default": 0.1, "paper": 0.3, "paper:native": 0.2}
    bench = CodecBench([[PAPER, NATIVE], [OURS]], [2.0, 4.0])
    found = compare(bench, [tensor(bench, "a", 1, gaps)])
    assert {(c.label, c.baseline) for c in found} == {("paper", "ours:default")}


def test_summary_of_tensors() -> None:
    bench = CodecBench([[OURS], [NATIVE]], [2.0, 4.0])
    gaps = {"ours:default": 0.1, "paper:native": 0.2}
    tensors = [tensor(bench, "a", 1, gaps), tensor(bench, "b", 3, {**gaps, "ours:default": 0.5}, variance=4.0)]
    found = summarise(bench, tensors)
    assert [(s.label, s.wanted) for s in found] == [
        ("ours:default", 2.0),
        ("ours:default", 4.0),
        ("paper:native", None),
        ("paper:native", None),
    ]
    assert found[0].gap_plain.mean == pytest.approx(0.3)
    assert found[0].gap_weighted.mean == pytest.approx(0.4)
    assert found[0].log2_distortion == pytest.approx(-2 * (2 - 0.4))
    assert found[0].most_missed == 0
    assert found[2].bits == pytest.approx(1.5)
    assert found[2].most_missed is None
    assert found[0].side_bits is None
    assert summarise(bench, []) == compare(bench, []) == []
