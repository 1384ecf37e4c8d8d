"""The bound on requests per second: exact, shared, and over every request that is sent."""

from __future__ import annotations

import threading

import pytest
from s3_server import Fault, new_bucket

from nwc_infra.stores import s3_pacing
from nwc_infra.stores.s3 import S3Store
from nwc_infra.stores.s3_options import S3Options
from nwc_infra.stores.s3_pacing import Pace


class Clock:
    """A clock that only sleep moves; each sleeper sees its own time pass, as threads that sleep side by side do."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def pace(self, rate: float) -> Pace:
        return Pace(rate, lambda: self.now, self.slept.append)


def test_callers_are_let_through_one_interval_apart_and_a_pause_saves_nothing_up():
    clock = Clock()
    pace = clock.pace(4.0)
    for _ in range(4):
        pace.wait()  # all at the same time
    assert clock.slept == [0.25, 0.5, 0.75]
    clock.now = 100.9  # the fifth is late by nothing: its turn comes at 101.0
    pace.wait()
    assert clock.slept[3:] == [pytest.approx(0.1)]
    clock.now = 500.0
    for _ in range(3):
        pace.wait()
    assert clock.slept[4:] == [0.25, 0.5]


def test_threads_never_get_the_same_turn():
    clock = Clock()
    pace = clock.pace(1.0)
    threads = [threading.Thread(target=lambda: [pace.wait() for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(clock.slept) == [float(i) for i in range(1, 1600)]


@pytest.fixture
def turns(monkeypatch) -> list[float]:
    """The rate of every turn that was waited for; nobody sleeps."""
    taken: list[float] = []
    monkeypatch.setattr(Pace, "wait", lambda self: taken.append(1 / self._interval))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return taken


def test_every_request_waits_for_its_turn_retries_and_parts_too(server, proxy, turns):
    options = S3Options(endpoint_url=proxy.url, requests_per_second=8.0)
    store = S3Store(f"s3://{new_bucket(server)}/p", options=options)
    proxy.faults.append(Fault(lambda r: r.method == "PUT", times=2, instead=(500, "InternalError")))
    store.put("a", b"x")
    assert (len(proxy.log), turns) == (3, [8.0] * 3)
    store.put_stream("large", [bytes(17 << 20)])
    store.create("b", b"x")
    assert store.get("a") == b"x"
    assert list(store.uploads()) == []
    store.delete("a")
    assert len(proxy.log) > 10
    assert turns == [8.0] * len(proxy.log)


def test_one_server_and_rate_is_one_bound_and_without_a_rate_there_is_none(server, proxy, turns, monkeypatch):
    monkeypatch.setattr(s3_pacing, "_paces", {})

    def read(rate: float | None, url: str, **options: object) -> None:
        store = S3Store(
            f"s3://{new_bucket(server)}", options=S3Options(endpoint_url=url, requests_per_second=rate, **options)
        )
        store.put("a", b"x")

    read(None, proxy.url)
    assert (turns, s3_pacing._paces) == ([], {})
    read(16.0, proxy.url)
    read(16.0, proxy.url, read_timeout=7.0)  # another client
    assert len(s3_pacing._paces) == 1
    read(32.0, proxy.url)
    read(16.0, server)
    assert len(s3_pacing._paces) == 3
    assert turns == [16.0, 16.0, 32.0, 16.0]
