"""`nwc bench workers` compares like with like, and says what it found."""

import json

import pytest

from nwc_workflows.bench import workers as module


@pytest.fixture(autouse=True)
def quick(monkeypatch, ray_cluster):
    monkeypatch.setattr(module, "ROUNDS", 1)


def test_the_command(nwc, monkeypatch):
    asked = ("--weights", 4, "--tensors", 3, "--workers", 1, "--preset", "fast")
    # Twice: a worker that compiles, because another process's kernels took the place of its own in numba's cache, needs more.
    for _ in range(2):
        code, out, err = nwc("bench", "workers", *asked, "--output", "json")
        assert code == 0, err
    plain, ray = json.loads(out)["ways"]
    assert (plain["name"], ray["name"]) == ("plain processes", "Ray")
    assert plain["weights"] == ray["weights"] == 3 * (4_000_000 // 3 // 2048) * 2048
    assert len(plain["seconds"]) == len(ray["seconds"]) == 1
    assert plain["driver_share"] is None
    assert ray["driver_share"] > 0
    assert 1e8 < ray["peak_memory"] < ray["planned_memory"]


def test_the_table_has_ratios_to_as_many_plain_processes():
    ways = [
        module.WorkersBench("plain processes", 1, (2.0, 9.0, 1.0), 8_000_000),
        module.WorkersBench("Ray", 1, (2.5,), 8_000_000, 0.012, 600_000_000, 1_000_000_000),
    ]
    _, rows = module.workers_table(ways)
    assert rows == [
        ("plain processes", 1, "4.00", "1.000", "", "", ""),
        ("Ray", 1, "3.20", "0.800", "1.2 %", "600", "1,000"),
    ]
