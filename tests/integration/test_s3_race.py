"""Eight drivers that finish at the same moment: one artifact, and everybody is told the truth."""

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from racing import drive
from synthetic import small_model

import nwc_core as nwc_package

N_DRIVERS = 8


@pytest.fixture(scope="module")
def drivers(session_proxy):
    with ProcessPoolExecutor(N_DRIVERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("wish", ["the same", "different"])
def test_of_eight_drivers_one_commits(wish, drivers, upload, proxy, contents, report):
    source = upload("source", small_model())
    destination = f"{source}.nwc"
    together, arrived = threading.Barrier(N_DRIVERS), []

    def hold(request):
        """Nobody's manifest gets through before all are on their way."""
        if request.method == "PUT" and request.path.endswith("source.nwc/manifest.json") and len(arrived) < N_DRIVERS:
            arrived.append(request)
            together.wait(50)

    proxy.on_request = hold
    bits = [6.0 + (i / 8 if wish == "different" else 0) for i in range(N_DRIVERS)]
    runs = [drivers.submit(drive, source, destination, each) for each in bits]
    outcomes = [run.result(timeout=100) for run in runs]
    kinds = Counter(kind for kind, _ in outcomes)
    report("eight drivers commit at once", ("they want", *TITLES), (wish, *(kinds[title] for title in TITLES)))
    assert len(arrived) == N_DRIVERS
    loser = "the same was there" if wish == "the same" else "AlreadyExistsError"
    assert kinds == {"created": 1, loser: N_DRIVERS - 1}, outcomes
    (winner,) = [fingerprint for kind, fingerprint in outcomes if kind == "created"]
    with nwc_package.open(destination) as artifact:
        assert artifact.manifest.fingerprint == winner
        assert len([artifact.get_tensor(name) for name in artifact.keys()]) == 9  # noqa: SIM118
    for kind, text in outcomes:
        if kind == "the same was there":
            assert text == winner
        elif kind != "created":
            assert f"{destination}/manifest.json: the destination holds a different artifact" in text
            assert winner in text
    assert len(list(contents("source.nwc"))) >= 6


TITLES = ("created", "the same was there", "AlreadyExistsError")
