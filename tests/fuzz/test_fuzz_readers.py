"""A short run of every fuzz target, so that they keep working and a gross mistake shows at once, shrunk to its least."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, only_our_errors


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    for seed in seeds:
        assert only_our_errors(target.run, seed), "a sound input was refused"
    outcomes = set()

    @settings(
        max_examples=40 if "artifact" in name else 150,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def run(chance: random.Random) -> None:
        outcomes.add(only_our_errors(target.run, mutate(chance, chance.choice(seeds), chance.choice(seeds))))

    run()
    assert False in outcomes, "nothing was refused: the inputs hardly differ from sound ones"
