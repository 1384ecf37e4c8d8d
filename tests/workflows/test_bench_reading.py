"""`nwc bench reading` loads the same tensors twice, and counts what it read."""

import dataclasses
import json

import pytest

from nwc_core.errors import UsageError
from nwc_core.lossless import tensor_bytes
from nwc_core.store import open_store
from nwc_workflows.bench import reading as module
from nwc_workflows.bench.reading import Reading, bench_reading, reading_table
from nwc_workflows.sources import open_checkpoint, read_bytes, to_tensor


def test_the_command(nwc, model, artifact, monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 2)
    code, out, err = nwc("bench", "reading", model, artifact, "--output", "json")
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


def test_a_folder_has_no_bandwidth(nwc, model, artifact):
    code, _, err = nwc("bench", "reading", model, artifact, "--megabits", 1000)
    assert code == 2
    assert "bandwidth: found /" in err


def test_the_original_is_all_there(model):
    store, checkpoint = open_store(model), open_checkpoint(model)
    wanted = {
        tensor.name: to_tensor(read_bytes(checkpoint, tensor), tensor.dtype, tensor.shape)
        for tensor in checkpoint.tensors
    }
    files = {file.path: bytearray((model / file.path).read_bytes()) for file in checkpoint.weight_files}
    for tensor in checkpoint.tensors:
        found = module._view(files[tensor.file], tensor)
        assert tensor_bytes(found).tobytes() == tensor_bytes(wanted[tensor.name]).tobytes()
        moved = dataclasses.replace(tensor, start=tensor.start + 1, stop=tensor.stop + 1)
        odd = module._view(bytearray(1) + files[tensor.file], moved)
        assert tensor_bytes(odd).tobytes() == tensor_bytes(found).tobytes()
    assert module._load_original(store) == len(wanted)


def test_the_table_has_shares_of_the_original():
    found = [Reading("original", 2_000_000, 4, (1.0, 3.0, 2.0)), Reading("artifact", 500_000, 4, (0.6, 0.5, 0.4))]
    _, rows = reading_table(found)
    assert rows[1] == ("artifact", "0.50", "0.250", "0.500", "0.250", "125.000", "1")


@pytest.mark.slow
def test_small_tensors(nwc, ray_cluster, monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 1)
    code, out, err = nwc("bench", "small-tensors", "--tensors", 7, "--output", "json")
    assert code == 0, err
    original, coded = json.loads(out)["ways"]
    assert original["tensors"] == coded["tensors"] == 7
    assert original["nbytes"] > 4 * (4 * 32 + 3 * 256)
    assert coded["nbytes"] > 0
