"""A short, seeded run of every fuzz target, so that they keep working and a gross mistake shows at once."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, only_our_errors


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_hundred_inputs(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    refused = 0
    for seed in seeds:
        assert only_our_errors(target.run, seed), "a sound input was refused"
    for _ in range(60 if "artifact" in name else 250):
        refused += not only_our_errors(target.run, mutate(chance, chance.choice(seeds), chance.choice(seeds)))
    assert refused > 0 or name == "manifest"
