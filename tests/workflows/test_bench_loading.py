"""`nwc bench loading`: the same model three times, and what each takes."""

import json
import sys

import pytest
from evaluation_models import artifact_of, make_cnn, make_llama

from nwc_workflows.bench import loading as module

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]


@pytest.fixture
def in_this_process(monkeypatch):
    """Starting three processes takes long."""
    from nwc_workflows.bench import loading_probe

    monkeypatch.setattr(loading_probe, "_ROUNDS", 1)

    def measure(way, source, tokens, threads):
        return module.Loading(way, **loading_probe.main(way, source, tokens, threads))

    monkeypatch.setattr(module, "_measure", measure)


def test_the_command(nwc, tmp_path, in_this_process):
    artifact = artifact_of(make_llama(tmp_path / "model"), tmp_path / "model.nwc", bits=9)
    code, out, err = nwc("bench", "loading", artifact, "--tokens", 2, "--output", "json")
    assert code == 0, err
    plain, decoded, compressed = json.loads(out)["ways"]
    assert [way["way"] for way in (plain, decoded, compressed)] == ["plain", "decoded", "compressed"]
    assert plain["logits_sha256"] == decoded["logits_sha256"] == compressed["logits_sha256"]
    assert plain["weights_nbytes"] == decoded["weights_nbytes"] > 1.5 * compressed["weights_nbytes"]
    assert all(way["tokens_per_second"] > 0 for way in (plain, decoded, compressed))


def test_the_table_says_which_logits_differ():
    found = [module.Loading(way, 1, 2, 3, 4.0, 5.0, digest) for way, digest in (("plain", "a"), ("decoded", "b"))]
    _, rows = module.loading_table(found)
    assert [row[-1] for row in rows] == ["identical", "DIFFERENT"]


def test_a_model_that_cannot_run_is_named(failing, tmp_path):
    artifact = artifact_of(make_cnn(tmp_path / "model"), tmp_path / "model.nwc", bits=30)
    assert "a causal language model" in failing("bench", "loading", artifact)
