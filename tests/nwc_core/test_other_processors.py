"""Kernels compiled for processors with narrower vectors, or hardly any, find the same points and words."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from codec_samples import sample_codec, sigma

from nwc_core.prior import LEVELS
from nwc_core.rans import decode_segment, encode_segment
from nwc_core.trellis import search, transitions

SSE = "+sse2,+cx16,+64bit,+cmov,+fxsr,+mmx"
PROCESSORS = {"x86-64": SSE, "haswell": f"{SSE},+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt"}


def digest() -> str:
    """Of what searching and coding gives over all levels, with vectors and without."""
    found, tables = hashlib.sha256(), sample_codec().prior.tables[0]
    for lanes, n_states in ((1, 4), (17, 8), (32, 8), (32, 64)):
        rng = np.random.default_rng(lanes)
        level = rng.integers(0, LEVELS, 3000).astype(np.uint8)
        u = (rng.standard_normal(3000) * [min(sigma(int(lev)), 2e4) for lev in level]).astype(np.float32)
        u[::100] *= 40
        points = search(u, level, lanes, n_states, tables)
        segment = encode_segment(points, level, lanes, transitions(n_states), tables)
        assert (decode_segment(segment, level, transitions(n_states), tables, "x") == points).all()
        assert segment.escapes.size
        for part in (points, segment.states, segment.words, segment.escapes):
            found.update(part.tobytes())
    return found.hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of this architecture")
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_same_words_on_another_processor(name: str, tmp_path: Path) -> None:
    if name == "haswell" and not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor could not run it")
    target = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": PROCESSORS[name], "NUMBA_CACHE_DIR": str(tmp_path)}
    script = "import test_other_processors as here; print(here.digest())"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **target, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [digest()]
