"""`nwc compress --recover`: only what is stored without loss changes, and the model gets better or stays the same."""

import json
import sys

import numpy as np
import pytest
import torch
from checkpoints import contents, same_bits
from evaluation_models import FACTORY, make_bert, make_cnn, make_llama, text
from safetensors.torch import load_file, save_file

import nwc_core
from nwc_core.codec import Codec
from nwc_workflows import blocks
from nwc_workflows.evaluate import EvaluateOptions, prepare
from nwc_workflows.recovery import objective, on_trial, tuning

pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")
CODEC_NBYTES = len(Codec.load("default").to_bytes())
# Sizes of so small models: what is left to the weights must not depend on the codec's.
LLAMA_NBYTES = CODEC_NBYTES + 51_000
LLAMA = ("--max-bytes", LLAMA_NBYTES)
STEPS = ("--recover", 10, "--recover-steps", 30)


@pytest.fixture(autouse=True)
def several_tasks(monkeypatch):
    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 13)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(text to tune on, other text)."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tune.txt").write_text(text(700))
    (folder / "quality.txt").write_text(text(700, seed=1))
    return folder / "tune.txt", folder / "quality.txt"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model. Shared: not to be changed."""
    return make_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def compress(llama, data, nwc, tmp_path, ray_cluster):
    """Runs `nwc compress` of the language model: (exit code, the JSON, stderr)."""

    def run(*options, destination=tmp_path / "out", tune_on=data[0]):
        on = ["--recover-data", tune_on] if tune_on else []
        code, out, err = nwc("compress", llama, destination, *options, *on, "--window", 32, "--output", "json")
        return code, json.loads(out) if out else None, err

    return run


def divergence(model, artifact, on):
    found = prepare(str(model), [str(artifact)], EvaluateOptions(on, window=32)).run()
    return found.compressed[0].figures["kl"].value


def test_norms_are_tuned_and_the_output_is_closer(compress, llama, data, nwc, tmp_path, monkeypatch):
    code, found, err = compress(*LLAMA, *STEPS)
    assert code == 0, err
    recovery = found["recovery"]
    assert 0 < recovery["after"] < recovery["before"]
    assert recovery["gain"] == pytest.approx(1 - recovery["after"] / recovery["before"])
    assert recovery["steps"] <= 30
    assert f"recovery: {len(recovery['tuned'])} tensors tuned in" in err
    with nwc_core.open(tmp_path / "out") as artifact:
        assert artifact.manifest.job["recover_minutes"] == 10.0
        assert artifact.manifest.job["recover_steps"] == 30
        assert recovery["tuned"] == [row.tensor for row in artifact.index if row.tuned]
        coders = {row.tensor: row.coder for row in artifact.index}
        state = artifact.get_tensors(artifact)
    original = load_file(llama / "model.safetensors")
    assert set(recovery["tuned"]) <= {name for name in state if "norm" in name}
    for name, tensor in state.items():
        if coders[name] != "nwc" and name not in recovery["tuned"]:
            assert same_bits(tensor, original[name])
        assert tensor.dtype == original[name].dtype
    monkeypatch.setattr(tuning, "_RATE", 1e4)  # gains nothing
    assert compress(*LLAMA, *STEPS, destination=tmp_path / "plain")[1]["recovery"]["tuned"] == []
    plain = nwc_core.load(tmp_path / "plain")
    assert all(same_bits(plain[name], state[name]) for name in state if name not in recovery["tuned"])
    assert divergence(llama, tmp_path / "out", data[1]) < divergence(llama, tmp_path / "plain", data[1])
    code, out, _ = nwc("verify", tmp_path / "out", "--source", llama, "--output", "json")
    assert (code, json.loads(out)["tuned"]) == (0, recovery["tuned"])


def test_so_many_steps_give_the_same_bytes_and_again_nothing_is_done(compress, tmp_path, monkeypatch):
    for name in "ab":
        assert compress(*LLAMA, *STEPS, destination=tmp_path / name)[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    monkeypatch.setattr(on_trial, "cluster", None)
    code, found, _ = compress(*LLAMA, *STEPS, destination=tmp_path / "a")
    assert (code, found["created"], "recovery" in found) == (0, False, False)
    code, _, err = compress(*LLAMA, "--recover", 5, destination=tmp_path / "a")
    assert code == 1
    assert "recover_minutes: there 10.0, here 5.0" in err


def test_where_nothing_is_gained_all_stays_as_it_was(compress, llama, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_RATE", 1e4)
    code, found, err = compress(*LLAMA, *STEPS)
    assert code == 0, err
    assert found["recovery"]["tuned"] == []
    assert found["recovery"]["before"] == found["recovery"]["after"]
    assert "recovery: nothing gained in" in err
    with nwc_core.open(tmp_path / "out") as artifact:
        assert not any(row.tuned for row in artifact.index)
    assert compress(*LLAMA, *STEPS)[1]["created"] is False


def test_a_gain_that_a_reader_of_the_artifact_would_not_see_is_none(compress, monkeypatch):
    monkeypatch.setattr(objective.Objective, "held_out_loss_of", lambda *arguments: float("inf"))
    assert compress(*LLAMA, *STEPS)[1]["recovery"]["tuned"] == []


def test_the_size_asked_for_holds(compress, tmp_path):
    code, found, err = compress(*LLAMA, *STEPS)
    assert code == 0, err
    assert found["recovery"]["tuned"]
    assert 0.985 * LLAMA_NBYTES <= sum(map(len, contents(tmp_path / "out").values())) <= LLAMA_NBYTES


@pytest.mark.parametrize("size", [(*LLAMA, "--gate", "kl=5"), ("--quality", "kl=0.1")])
def test_quality_is_that_of_the_tuned_model(compress, llama, data, tmp_path, size):
    code, found, err = compress(*size, "--quality-data", data[1], "--recover", 10, "--recover-steps", 150)
    assert code == 0, err
    assert found["recovery"]["tuned"]
    good = [trial for trial in found["trials"] if trial["good_enough"]]
    chosen = min(good, key=lambda trial: trial["weight_bytes"])
    assert chosen["measured"]["value"] == pytest.approx(divergence(llama, tmp_path / "out", data[1]))
    assert chosen["weight_bytes"] == found["weight_bytes"]


def wide_cnn(folder):
    """The network of FACTORY with a convolution that is large enough to be coded with loss."""
    make_cnn(folder)
    width, generator = 128, torch.Generator().manual_seed(0)
    sizes = {"norm.weight": 1.0, "norm.bias": 0.0, "norm.running_mean": 0.0, "norm.running_var": 1.0}
    tensors = {
        "conv.weight": torch.randn(width, 3, 3, 3, generator=generator),
        **{name: torch.full((width,), value) for name, value in sizes.items()},
        "linear.weight": torch.randn(4, width, generator=generator),
        "linear.bias": torch.zeros(4),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"width": 128, "classes": 4}')
    return folder


def test_a_classifier_made_by_a_factory(nwc, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factory", raising=False)
    (tmp_path / "own_factory.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8), rng.integers(0, 4, 120)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    arguments = ["--recover-data", "images.npz", "--factory", "own_factory:make", "--output", "json"]
    code, out, err = nwc(
        "compress",
        wide_cnn(tmp_path / "cnn"),
        tmp_path / "out",
        "--max-bytes",
        CODEC_NBYTES + 11_000,
        *STEPS,
        *arguments,
    )
    assert code == 0, err
    recovery = json.loads(out)["recovery"]
    assert {"norm.weight", "norm.bias"} <= set(recovery["tuned"])
    assert not {"norm.running_mean", "norm.running_var"} & set(recovery["tuned"])
    assert recovery["after"] < recovery["before"]


def test_an_encoder(data, nwc, tmp_path, ray_cluster):
    model = make_bert(tmp_path / "bert")
    arguments = ["--recover-data", data[0], "--output", "json"]
    code, out, err = nwc("compress", model, tmp_path / "out", *LLAMA, *STEPS, *arguments)
    assert code == 0, err
    recovery = json.loads(out)["recovery"]
    assert recovery["unit"] == "squared error of embeddings of length 1"
    assert any(name.endswith(".bias") for name in recovery["tuned"])
    assert recovery["after"] < recovery["before"]


# --- what makes no sense


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--recover-data: found it without --recover; wanted that, too"),
        (("--recover", 0), "--recover"),
        ((*STEPS, "--max-tokens", 40), "the data for recovery: found 1 windows; wanted more"),
    ],
)
def test_options_that_make_no_sense(compress, tmp_path, options, message):
    code, _, err = compress(*LLAMA, *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_no_data_to_tune_on(compress):
    code, _, err = compress(*LLAMA, *STEPS, tune_on=None)
    assert code == 2
    assert "--recover: found no --recover-data; wanted data to tune on" in err
    code, _, err = compress(*LLAMA, "--recover-steps", 5, tune_on=None)
    assert code == 2
    assert "--recover-steps: found it without --recover" in err


def test_data_that_quality_is_measured_on_is_refused(compress, data):
    code, _, err = compress(*LLAMA, *STEPS, "--gate", "kl=1", "--quality-data", data[0])
    assert code == 2
    assert "found the data that quality is measured on; wanted other data" in err


def test_a_cluster_needs_a_scratch_place(compress):
    code, _, err = compress(*LLAMA, *STEPS, "--address", "10.0.0.1:6379")
    assert code == 2
    assert "scratch: found none" in err
