"""The line of time: order is kept, idle hours are cut out, labels have room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_workflows.report.time_axis import time_axis, time_text

SPANS = st.lists(
    st.tuples(st.floats(0, 1e10), st.floats(0, 1e6)).map(lambda s: (s[0], s[0] + s[1])), min_size=1, max_size=40
)


def test_one_run_is_drawn_to_scale():
    axis = time_axis([(100.0, 110.0), (105.0, 120.0)])
    assert axis.cuts == []
    assert [axis.at(time) for time in (100, 105, 120)] == [0.0, 0.25, 1.0]
    assert [(tick.at, tick.label) for tick in axis.ticks] == [
        (0, "0"),
        (0.25, "5.0 s"),
        (0.5, "10 s"),
        (0.75, "15 s"),
        (1, "20 s"),
    ]


def test_idle_nights_are_cut_out():
    day = 86400.0
    axis = time_axis([(day * n, day * n + 600) for n in range(3)])
    assert len(axis.cuts) == 2
    assert axis.at(600) == pytest.approx(0.97 / 3)
    assert axis.at(day) == pytest.approx(0.97 / 3 + 0.015)
    assert axis.at(40_000) <= axis.at(day)
    assert [tick.label for tick in axis.ticks] == ["1970-01-01 00:00", "1970-01-02 00:00", "1970-01-03 00:00"]


def test_a_moment_is_enough():
    axis = time_axis([(5.0, 5.0)])
    assert axis.at(5.0) == 0.0
    assert [tick.label for tick in axis.ticks] == ["0"]


@given(SPANS)
def test_order_is_kept_and_all_is_on_the_axis(spans):
    axis = time_axis(spans)
    times = sorted(time for span in spans for time in span)
    places = [axis.at(time) for time in times]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    assert len(axis.parts) <= 12
    assert all(0 <= start <= stop <= 1 for start, stop in axis.cuts)
    ticks = axis.ticks
    assert 1 <= len(ticks) <= 8
    assert all(0 <= tick.at <= 1 for tick in ticks)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1970-01-01 00:00:00 UTC"), (1e300, "at no time"), (float("nan"), "at no time")]
)
def test_times_in_words(seconds, text):
    assert time_text(seconds) == text
