"""`nwc bench catalog`: simulated models are real ones to the code that plans and commits them, and what it asks is counted."""

from __future__ import annotations

import json

import pytest

from nwc_core.artifact.index import write_index
from nwc_core.artifact.payload import block_name
from nwc_core.safetensors_header import build_header
from nwc_workflows import overhead
from nwc_workflows.bench.catalog import run, simulate, tensor_shapes
from nwc_workflows.bench.memory_store import Below, MemoryStore
from nwc_workflows.plan import CompressOptions, make_plan

FIRST = "models/team-00/model-00000/"


@pytest.mark.parametrize("count", [3, 10, 11, 12, 300])
def test_so_many_tensors(count):
    shapes = tensor_shapes(count, 64)
    assert len(shapes) == count
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= shapes.keys()


def test_phases(codec, ray_cluster):
    store, done = simulate(5, 30, 256), []
    kept = dict(store.objects)
    find, plan, commit = run(store, codec, 2, done.append)
    assert sum(done) == 5 + 2
    assert [find.name, plan.name, commit.name] == ["find", "plan", "commit"]
    assert find.requests == {"LIST": 1}
    # Of each: a listing; version and size of the weights, size of the other file; length of the header, header, config; and
    # three samples of embedding and head, which are of one shape, and all zeros here.
    assert plan.requests == {"LIST": 5, "HEAD": 15, "GET": 15 + 5 * 6}
    assert commit.requests["PUT"] >= 2 * 4  # codec, config, index, manifest
    assert all(phase.seconds > 0 and phase.peak_nbytes > 1 << 20 for phase in (find, plan, commit))
    assert store.objects == kept


def test_the_command(nwc, ray_cluster):
    code, out, err = nwc(
        "bench", "catalog", "--models", 3, "--tensors", 12, "--hidden", 64, "--commit", 0, "--output", "json"
    )
    assert code == 0, err
    assert [(phase["name"], phase["models"]) for phase in json.loads(out)["phases"]] == [("find", 3), ("plan", 3)]
    code, out, _ = nwc("bench", "catalog", "--models", 3, "--tensors", 12, "--hidden", 64, "--commit", 9)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:5]] == [["find", "3"], ["plan", "3"], ["commit", "3"]]


# --- what makes planning fast: estimates, where they do not matter to the size


@pytest.fixture
def large(codec):
    store = simulate(1, 300, 1024)
    plan = make_plan(Below(store, FIRST), codec, CompressOptions(bits=4.0))
    return store, plan


def test_a_large_model_is_planned_from_its_header_and_a_few_samples(large):
    store, plan = large
    assert store.requests == {"LIST": 1, "HEAD": 3, "GET": 3 + 6}
    lossless = [block for block in plan.blocks if not block.lossy]
    assert len(lossless) > 50
    assert 8 * sum(block.nbytes for block in lossless) < 0.004 * plan.weights


def test_a_small_model_counts_every_byte(codec):
    store = simulate(1, 300, 64)
    plan = make_plan(Below(store, FIRST), codec, CompressOptions(bits=6.0))
    lossless = [block for block in plan.blocks if not block.lossy]
    assert store.requests["GET"] == 3 + 6 + len(lossless)


def test_an_estimated_index_is_near_the_real_one(large):
    _, plan = large
    real = len(write_index([overhead._stand_in(block) for block in plan.blocks]))
    assert overhead._index_nbytes(plan.blocks) == pytest.approx(real, rel=0.05)


def test_headers_are_counted_as_they_are_built(large, codec, model):
    small = make_plan(model, codec, CompressOptions(bits=20.0))
    for task in [*large[1].tasks, *small.tasks]:
        names = [block_name(block.tensor.name, block.number) for block in task.blocks]
        assert overhead._payload_header_nbytes(task) == len(
            build_header([(name, "U8", (1_000_000,)) for name in names])
        )


# --- the store in memory


def test_objects_that_claim_to_be_longer():
    store = MemoryStore()
    store.put("a", b"12")
    store.sizes["a"] = 5
    assert (store.size("a"), store.get("a"), store.get_range("a", 1, 4)) == (5, b"12\0\0\0", b"2\0\0")
    assert [info.size for info in store.list()] == [5]


def test_listings_count_by_pages_of_what_they_list():
    store = MemoryStore()
    for i in range(2500):
        store.put(f"{i:04d}", b"")
    for prefix, pages in (("", 3), ("1", 1), ("x", 1), ("24", 1)):
        store.requests.clear()
        list(store.list(prefix))
        assert store.requests == {"LIST": pages}, prefix
