"""`nwc bench reading` loads the same tensors twice, counts what it read, and keeps to a bandwidth."""

import json

import pytest

from nwc_core.errors import UsageError
from nwc_core.store import open_store
from nwc_workflows.bench import reading as module
from nwc_workflows.bench.reading import PacedStore, Reading, bench_reading, reading_table


def test_the_command(nwc, model, artifact, monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 2)
    code, out, err = nwc("bench", "reading", model, artifact, "--megabits", 1000, "--output", "json")
    assert code == 0, err
    original, coded = json.loads(out)["ways"]
    assert original["tensors"] == coded["tensors"] > 10
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    assert original["nbytes"] >= weights
    assert 0 < coded["nbytes"] < weights
    assert len(original["seconds"]) == len(coded["seconds"]) == 2


def test_another_model_is_refused(artifact, minilm):
    with pytest.raises(UsageError, match="wanted a checkpoint and the artifact that was made from it"):
        bench_reading(str(minilm), str(artifact), None, 1, lambda amount: None)


def test_reads_share_the_bandwidth(tmp_path, monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", slept.append)
    (tmp_path / "a").write_bytes(bytes(1000))
    store = PacedStore(open_store(tmp_path), 500.0)
    assert len(store.get("a")) == 1000
    assert len(store.get_range("a", 0, 250)) == 250
    now[0] = 110.0
    store.get_range("a", 0, 100)
    assert slept == pytest.approx([2.0, 2.5, 0.2])
    assert store.nbytes == 1350


def test_the_table_has_shares_of_the_original():
    found = [Reading("original", 2_000_000, 4, (1.0, 3.0, 2.0)), Reading("artifact", 500_000, 4, (0.6, 0.5, 0.4))]
    _, rows = reading_table(found)
    assert rows[1] == ("artifact", "0.50", "0.250", "0.500", "0.250", "125.000", "1")
