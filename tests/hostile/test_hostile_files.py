"""Every hostile file gives the error that its entry names, and costs no more than its true size justifies."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import artifact_cases
import codec_cases
import coded_cases
import numpy as np
import pytest
from case import Case
from codec_samples import sample_codec

from nwc_core.codec import Codec
from nwc_core.matrix_stream import MatrixHeader
from nwc_core.scales import Scales

ALL: dict[str, list[Case]] = {
    "coded tensor": coded_cases.CASES,
    "codec": codec_cases.CASES,
    "artifact": [*artifact_cases.CASES, *artifact_cases.RESERVING],
}
FLAT = {f"{kind}: {case.name}": case for kind, cases in ALL.items() for case in cases}


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """Compiled kernels, expanded tables and imports are not the cost of a file."""
    for data in coded_cases.sound().values():
        coded_cases.decode(data)
    sample_codec().encode(coded_cases.gaussian(48, 40), 4.0)
    artifact_cases.sound()


@pytest.mark.parametrize("name", FLAT)
def test_a_hostile_file(name: str) -> None:
    FLAT[name].check(traced=True)


def test_a_segment_costs_what_its_own_lines_cost() -> None:
    """Else a small stream of many short segments costs the product of their number and of the lines of all."""
    size, zeros = 1 << 22, np.zeros(1 << 22, np.int32)
    header = MatrixHeader(
        **{"m": size, "n": 3, "shape": 0, "n_states": 8, "transform": 0, "bases": (), "by_columns": False, "lanes": 1},
        **{"step": np.float32(1), "row_exponent": zeros, "column_exponent": zeros[:3], "absolute": (True, True)},
        **{"scales": Scales(0, zeros, zeros[:3], 1, 1), "lines": 2},
    )
    assert header.level_axes  # made once
    tracemalloc.start()
    try:
        assert header.levels(7, 9).tolist() == [0] * 6
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


def test_names_are_unique() -> None:
    assert len(FLAT) == sum(map(len, ALL.values()))


def test_the_builders_are_right() -> None:
    """Without a lie the same bytes are read, so each case fails for the reason that it names."""
    for name, data in coded_cases.sound().items():
        assert coded_cases.decode(data) is not None, name
    assert Codec.from_bytes(codec_cases.codec()).prior.shapes == sample_codec().prior.shapes


def test_all_under_a_limit_on_memory() -> None:
    """What Python's own count does not see (torch, Arrow, Zstandard) may not grow either: the kernel counts here."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("limited.py"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{len(FLAT) - len(artifact_cases.RESERVING)} files" in done.stdout
