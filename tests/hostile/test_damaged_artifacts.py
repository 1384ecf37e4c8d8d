"""Damaged artifacts by the thousand: none is accepted, whatever the damage, and reading one costs next to nothing.

Accepted means that a tensor comes back with other bits, or that `verify` has nothing to say.
"""

from __future__ import annotations

import random
import resource
import time
from collections import Counter

import numpy as np
import pytest
from artifact_samples import MemoryStore
from codec_samples import bits_of
from damage import KINDS
from hostile_sample import Objects, intact

import nwc_core as nwc
from nwc_core.errors import NwcError
from nwc_workflows.verify import verify

MAX_GROWTH = 200 << 20  # bytes of memory over the whole run; the artifact has 60 KB
MAX_SECONDS = 20.0  # for one artifact: tens of milliseconds on an idle machine


def read(objects: Objects) -> tuple[dict[str, bytes] | None, list[str]]:
    """What loading gives (None: refused) and what verifying complains about. Any other error than ours escapes."""
    loaded: dict[str, bytes] | None = None
    complaints: list[str] = []
    try:
        loaded = {name: bits_of(tensor) for name, tensor in nwc.load(MemoryStore(objects)).items()}
    except NwcError as error:
        complaints.append(str(error))
    try:
        with nwc.open(MemoryStore(objects)) as artifact:
            found = [str(problem.error) for problem in verify(artifact)]
    except NwcError as error:
        found = [str(error)]
    assert found, f"verify has nothing to say; load: {complaints or 'accepted'}"
    assert all(len(text) < 2000 for text in found + complaints)
    return loaded, found


def damage_and_read(count: int, seed: int) -> dict[str, Counter[str]]:
    """Read `count` damaged artifacts, every kind as often; how often each kind was refused when."""
    good = {name: bits_of(tensor) for name, tensor in nwc.load(MemoryStore(intact())).items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    slowest = 0.0
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        chance = random.Random(f"{seed} {number}")
        objects = intact()
        while objects == intact():  # damage that changes nothing is none
            objects = KINDS[kind](chance, objects)
        started = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):
            loaded, _ = read(objects)
        slowest = max(slowest, time.perf_counter() - started)
        assert loaded is None or loaded == good, f"{kind}, number {number} of seed {seed}: other weights"
        table[kind]["refused by load" if loaded is None else "found by verify"] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    print(f"memory grew by {grown >> 20} MB, the slowest took {slowest:.2f} s")
    assert grown < MAX_GROWTH
    assert slowest < MAX_SECONDS
    return table


def test_the_intact_artifact_is_accepted() -> None:
    """Else nothing below would mean anything."""
    with nwc.open(MemoryStore(intact())) as artifact:
        assert verify(artifact) == []


def test_a_sample_of_damaged_artifacts() -> None:
    table = damage_and_read(300, seed=1)
    assert sum(table[kind].total() for kind in KINDS) == 300


@pytest.mark.slow
def test_ten_thousand_damaged_artifacts() -> None:
    table = damage_and_read(10_000, seed=2)
    for kind, counts in table.items():
        print(f"{kind:32} {counts.total():5}  {dict(counts)}")
    assert sum(counts.total() for counts in table.values()) == 10_000
    assert all(counts.total() >= 800 for counts in table.values())
