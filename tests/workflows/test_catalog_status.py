"""How far a catalog is: every state that a model can be in, read off the store alone."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from catalogs import change_record, make_models, record_path, write_catalog
from checkpoints import contents, snapshot

from nwc_workflows.bench.memory_store import MemoryStore
from nwc_workflows.catalog.records import Records, new_status
from nwc_workflows.catalog.status import read_status


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    """A folder with models, their file and results. Shared: not to be changed."""
    from nwc_workflows.cli import main

    folder = tmp_path_factory.mktemp("status")
    path = write_catalog(folder / "c.yaml", make_models(folder / "models"), folder / "out")
    with pytest.raises(SystemExit):
        main(["catalog", "run", str(path)])
    return folder


@pytest.fixture
def own(finished, tmp_path):
    """A copy of the results, and a file of the same models for it."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return write_catalog(tmp_path / "c.yaml", finished / "models", tmp_path / "out")


def states(nwc, *arguments):
    code, out, _ = nwc("catalog", "status", *arguments, "--output", "json")
    assert code == 0
    return {model["name"]: model["state"] for model in json.loads(out)["models"]}


def test_figures_of_what_is_done(nwc, finished):
    before = snapshot(finished)
    code, out, _ = nwc("catalog", "status", finished / "c.yaml", "--output", "json")
    assert code == 0
    data = json.loads(out)
    assert data["counts"] == {
        **dict.fromkeys(("running", "stopped", "gone", "unreadable", "not_begun"), 0),
        "done": 3,
        "failed": 1,
    }
    sound = [model for model in data["models"] if model["state"] == "done"]
    for model in sound:
        assert model["artifact_bytes"] == sum(map(len, contents(finished / "out" / model["name"]).values()))
    assert data["source_bytes"] == sum(model["source_bytes"] for model in sound)
    assert data["artifact_bytes"] == sum(model["artifact_bytes"] for model in sound)
    assert data["saved_per_month"] == pytest.approx(1000 * (data["source_bytes"] - data["artifact_bytes"]) / 1e9)
    assert snapshot(finished) == before


def test_the_price_of_the_command_line_counts(nwc, finished):
    _, out, _ = nwc("catalog", "status", finished / "c.yaml", "--price", "0", "--output", "json")
    assert json.loads(out)["saved_per_month"] == 0
    _, out, _ = nwc("catalog", "status", finished / "out", "--output", "json")
    assert json.loads(out)["saved_per_month"] is None


def test_in_words(nwc, own):
    change_record(own.parent / "out", "c", state="running", updated=time.time() - 3600, driver="head:77")
    code, out, _ = nwc("catalog", "status", own)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "4 models: 2 done, 1 stopped, 1 failed"
    assert lines[1].startswith("done: ")
    assert "per month at 1000 per GB" in lines[1]
    rows = {line.split()[0]: line for line in lines[3:]}
    assert "found bytes up to" in rows["bad"]
    assert "last sign of life 1 h 00 min ago, of head:77" in rows["c"]
    code, out, _ = nwc("catalog", "status", own, "--failed")
    assert out.splitlines()[:2] == lines[:2]
    assert [line.split()[0] for line in out.splitlines()[5:]] == ["bad", "c"]


def test_every_state(nwc, own):
    results = own.parent / "out"
    change_record(results, "c", state="running", updated=time.time())
    assert states(nwc, own) == {"a": "done", "b/deep": "done", "bad": "failed", "c": "running"}
    change_record(results, "c", updated=time.time() - 3600)
    (results / "a" / "manifest.json").unlink()
    record_path(results, "b/deep").write_text('{"format": 2}')
    shutil.rmtree(record_path(results, "bad").parent)
    expected = {"a": "gone", "b/deep": "unreadable", "bad": "not begun", "c": "stopped"}
    assert states(nwc, own) == expected
    assert states(nwc, results) == {name: state for name, state in expected.items() if state != "not begun"}


def test_nothing_is_there(nwc, tmp_path):
    assert nwc("catalog", "status", tmp_path / "nowhere")[:2] == (0, "0 models: no records\n")


def test_thousands_of_models_take_one_listing_and_their_records():
    store = MemoryStore()
    records, count = Records(store), 3000
    for i in range(count):
        records.write(
            new_status(f"m{i}", f"m{i}", "s3://b/m").changed(state="done", source_nbytes=8, artifact_nbytes=1)
        )
        store.put(f"m{i}/manifest.json", b"")
    store.requests.clear()
    summary = read_status(store)
    assert (summary.count("done"), summary.source_nbytes, summary.artifact_nbytes) == (count, 8 * count, count)
    assert store.requests == {"LIST": 2 * count // 1000, "GET": count}
