"""Kernels compiled for processors with narrower vectors, or hardly any, find the same points, words and weights."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import pytest
from codec_samples import sample_codec, sigma

from nwc_core.basis import COLUMNS, ROWS, Basis
from nwc_core.dtypes import DTYPES
from nwc_core.floats.body import decode_body, encode_body
from nwc_core.prior import LEVELS
from nwc_core.rans import decode_segment, encode_segment
from nwc_core.reference.network import Network
from nwc_core.reference.recipe import CHUNK
from nwc_core.synthesis import Synthesis
from nwc_core.trellis import search, transitions

SSE = "+sse2,+cx16,+64bit,+cmov,+fxsr,+mmx"
PROCESSORS = {"x86-64": SSE, "haswell": f"{SSE},+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt"}


def digest() -> str:
    """Of everything below."""
    found = hashlib.sha256()
    for part in (*points_and_words(), *bases_and_weights(), *reference_networks(), *floats()):
        found.update(part.tobytes())
    return found.hexdigest()


def points_and_words() -> Iterator[npt.NDArray[Any]]:
    """What searching and coding gives over all levels, with vectors and without."""
    tables = sample_codec().prior.tables[0]
    for lanes, n_states in ((1, 4), (17, 8), (32, 8), (32, 64)):
        rng = np.random.default_rng(lanes)
        level = rng.integers(0, LEVELS, 3000).astype(np.uint8)
        u = (rng.standard_normal(3000) * [min(sigma(int(lev)), 2e4) for lev in level]).astype(np.float32)
        u[::100] *= 40
        points = search(u, level, lanes, n_states, tables)
        segment = encode_segment(points, level, lanes, transitions(n_states), tables)
        assert (decode_segment(segment, level, transitions(n_states), tables, "x") == points).all()
        assert segment.escapes.size
        yield from (points, segment.states, segment.words, segment.escapes)


def bases_and_weights() -> Iterator[npt.NDArray[Any]]:
    """Bases of both axes, and weights in float32 and as bfloat16, with bases and the transform and without."""
    rng = np.random.default_rng(1)
    m, n = 40, 54
    points = rng.integers(-100, 101, (m, n)).astype(np.int32)
    exponents = [rng.integers(-20, 21, size).astype(np.int32) for size in (m, n)]
    bases = []
    for axis, size, rank in ((COLUMNS, n, 7), (ROWS, m, 5), (COLUMNS, 27, 26)):
        bases.append(Basis(axis, np.tril(rng.integers(1, 300, (size, rank))).astype(np.int32)))
        yield bases[-1].mixing().b
    for chosen, matrix in ([], None), ([], 0), (bases[:1], None), (bases[1:2], 0), (bases[:2], None), (bases[2:], 0):
        transform = None if matrix is None else sample_codec().transforms[matrix]
        step = np.float32(0.0123)
        undoing = Synthesis(step, *exponents, tuple(chosen), transform)
        for out in np.empty((m, n), np.float32), np.empty((m, n), np.uint16):
            undoing.place_all(points, out, 1)
            yield out


def reference_networks() -> Iterator[npt.NDArray[Any]]:
    """What a network of every kind of layer gives, for a number of chunks that leaves some lanes unused."""
    rng = np.random.default_rng(2)
    width, depth = 48, 2
    shapes = [(width, CHUNK), (width,), (depth, width, width), *[(depth, width)] * 3, (CHUNK, width), (CHUNK,)]
    network = Network(*(rng.standard_normal(shape, np.float32) * np.float32(0.3) for shape in shapes))
    yield network(rng.standard_normal((150, CHUNK), np.float32) * 5, rng.uniform(0.5, 2, width).astype(np.float32))


def floats() -> Iterator[npt.NDArray[Any]]:
    """Streams of floats, and what they decode to, for steps of one lane, of half a vector's, and of all."""
    rng = np.random.default_rng(3)
    for shape in ((3, 100), (60, 500), (300, 1000)):
        weight = rng.standard_normal(shape, np.float32)
        for name, patterns in ("F32", weight.view(np.uint8)), ("F16", weight.astype(np.float16).view(np.uint8)):
            body = encode_body(DTYPES[name], patterns.reshape(-1), shape)
            assert body is not None
            yield np.frombuffer(body[0], np.uint8)
            decoded = decode_body(DTYPES[name], body[0], weight.size, "x")
            assert decoded.tobytes() == patterns.tobytes()
            yield decoded


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
