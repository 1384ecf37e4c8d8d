"""`nwc bench models`: bytes of every method counted, outputs compared, and what cannot run left out with its reason."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_models import FACTORY, artifact_of, change_weights, make_bert, make_cnn, make_llama, text
from safetensors.torch import load_file

from nwc_core.errors import UsageError
from nwc_infra.cluster import RayCluster
from nwc_infra.scheduler import Outcome
from nwc_workflows import compress as compressing
from nwc_workflows import tasks
from nwc_workflows.bench.models_preparation import prepare_bench
from nwc_workflows.bench.rivals import nwc as ours
from nwc_workflows.bench.rivals import rival as rival_module
from nwc_workflows.bench.rivals.calibration import Calibration
from nwc_workflows.bench.rivals.registry import find_rivals
from nwc_workflows.bench.rivals.rival import Coded, Linear
from nwc_workflows.bench.rivals.rtn import RoundToNearest, round_to_nearest
from nwc_workflows.evaluate import EvaluateOptions

pytest.importorskip("transformers")

NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}  # of a batch norm that does nothing


@dataclass(frozen=True)
class Invented:
    """A method that does what a test wants."""

    quantise: object
    name: str = "invented"
    setting: str = "any"
    packages: tuple = ()
    needs: object = None

    def reason_missing(self):
        return None


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A language model. Shared: not to be changed."""
    return make_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def data(tmp_path):
    """(to evaluate on, to calibrate on)."""
    (tmp_path / "text.txt").write_text(text(333))
    (tmp_path / "other.txt").write_text(text(200, seed=1))
    return tmp_path / "text.txt", tmp_path / "other.txt"


@pytest.fixture
def without_ray(monkeypatch):
    """Compresses in this process."""

    def run(function, jobs, *, shared, **bounds):
        for job in jobs:
            yield Outcome(job, function(*job.args, **shared), None)

    monkeypatch.setattr(tasks, "run_bounded", run)
    monkeypatch.setattr(compressing, "cluster", lambda address, workers: nullcontext(RayCluster(None, 1)))


def bench(model, data, rivals, scope="whole", calibration=None, window=16, **options):
    return prepare_bench(str(model), EvaluateOptions(data, window=window, **options), calibration, scope, rivals).run()


# --- the command


def test_points_are_sorted_by_bits_and_their_bytes_add_up(nwc, llama, data, tmp_path, without_ray):
    out = tmp_path / "out"
    arguments = ["bench", "models", llama, "--data", data[0], "--window", 16, "--bits", 0.5, "--bits", 3, "--bits", 8]
    code, found, err = nwc(*arguments, "--method", "rtn", "--method", "nwc", "--out", out, "--output", "json")
    assert code == 0, err
    found = json.loads(found)
    assert json.loads((out / "models.json").read_text()) == found
    assert (out / "models.png").read_bytes().startswith(b"\x89PNG")
    points = found["points"]
    bits = [point["bits_per_weight"] for point in points]
    assert bits == sorted(bits)
    assert "rtn" in {point["method"] for point in points}
    state = load_file(llama / "model.safetensors")
    rtn = [point for point in points if point["method"] == "rtn"]
    assert len(rtn) == 6
    for point in rtn:
        alone = sum(tensor.nbytes for tensor in state.values() if tensor.ndim == 1)
        header = (llama / "model.safetensors").stat().st_size - sum(tensor.nbytes for tensor in state.values())
        assert point["bytes"] == point["coded_bytes"] + alone + header
        assert point["coded_weights"] == sum(tensor.numel() for tensor in state.values() if tensor.ndim == 2)
    best, worst = (next(p for p in rtn if p["setting"] == f"{n} bits, groups of 32") for n in (8, 3))
    assert best["figures"]["kl"]["value"] < worst["figures"]["kl"]["value"] / 50
    refused = [entry for entry in found["left_out"] if entry["setting"] == "0.5 bits"]
    assert [entry["name"] for entry in refused] == ["nwc"]  # the codec alone takes more than this of so few weights
    assert "the codec, the index" in refused[0]["reason"]


def test_a_table_for_people(nwc, llama, data):
    code, out, err = nwc(
        *("bench", "models", llama, "--data", data[0], "--window", 16, "--bits", 4),
        *("--method", "rtn", "--method", "gguf-imatrix", "--scope", "linears"),
    )
    assert code == 0, err
    assert "over the 14 linear layers" in out
    assert "4 bits, groups of 64" in out
    assert "gguf-imatrix" in out[out.index("left out") :]


def test_an_unknown_method_is_refused(nwc, llama, data):
    code, _, err = nwc("bench", "models", llama, "--data", data[0], "--method", "magic")
    assert code == 2
    assert "'magic'" in err
    assert "rtn" in err


def test_what_is_compressed_already_is_refused(llama, data, tmp_path):
    artifact = artifact_of(llama, tmp_path / "model.nwc")
    with pytest.raises(UsageError, match="compressed already"):
        prepare_bench(str(artifact), EvaluateOptions(data[0], window=16), None, "whole", [])


def test_calibrating_on_the_data_of_the_test_is_refused(llama, data, tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(data[0].read_bytes())
    with pytest.raises(UsageError, match="wanted other data"):
        prepare_bench(str(llama), EvaluateOptions(data[0], window=16), copy, "whole", [])


# --- what is left out


def test_a_missing_package_is_named_with_what_installs_it(llama, data, monkeypatch):
    monkeypatch.setattr(rival_module, "find_spec", lambda name: None)
    found = bench(llama, data[0], find_rivals([4], ["hqq", "gguf"]))
    assert not found.points
    reasons = {entry.name: entry.reason for entry in found.left_out}
    assert reasons["hqq"] == "hqq not installed: pip install 'nwc[rivals]'"
    assert reasons["gguf"] == "llama_cpp, gguf not installed: pip install 'nwc[rivals-gguf]'"


def test_a_method_that_fails_does_not_stop_the_others(llama, data):
    def fail(subject):
        raise RuntimeError("no kernel\nfor this processor")

    def other_shape(subject):
        return subject.with_rest({subject.linears[0].name: Coded(torch.zeros(3), 1)})

    def nothing(subject):
        return subject.with_rest({})

    found = bench(llama, data[0], [Invented(fail), Invented(other_shape), Invented(nothing), RoundToNearest(4, 64)])
    assert [point.rival.name for point in found.points] == ["rtn"]
    assert "RuntimeError: no kernel for this processor" in found.left_out[0].reason
    assert "found shape [3]" in found.left_out[1].reason
    assert "none of the model's tensors" in found.left_out[2].reason


def test_a_method_that_calibrates_needs_data(llama, data):
    rival = Invented(lambda subject: subject.with_rest({}), needs="data")
    assert bench(llama, data[0], [rival]).left_out[0].reason == "needs --calibration-data"
    assert "none of" in bench(llama, data[0], [rival], calibration=data[1]).left_out[0].reason


# --- what counts


def test_in_the_scope_of_linears_nothing_else_is_touched(llama, data):
    def spoil_all_but_linears(subject):
        kept = {linear.name for linear in subject.linears}
        return subject.with_rest(
            {name: Coded(t if name in kept else torch.zeros_like(t), 10) for name, t in subject.state.items()}
        )

    point = bench(llama, data[0], [Invented(spoil_all_but_linears)], scope="linears").points[0]
    assert point.figures["kl"].value == 0
    assert (point.coded, point.nbytes) == (14, 140)
    whole = bench(llama, data[0], [Invented(spoil_all_but_linears)]).points[0]
    assert whole.figures["kl"].value > 0.1
    assert whole.coded == len(load_file(llama / "model.safetensors"))  # norms, too, if a method takes them


def test_a_linear_layer_that_a_method_leaves_alone_counts_as_stored(llama, data):
    def one(subject):
        first = subject.linears[0].name
        return subject.with_rest({first: Coded(subject.state[first], 100)})

    point = bench(llama, data[0], [Invented(one)], scope="linears").points[0]
    state = load_file(llama / "model.safetensors")
    linears = {name: tensor for name, tensor in state.items() if "proj" in name}
    first = next(name for name in linears if "layers.0.self_attn.q_proj" in name)
    assert point.nbytes == 100 + sum(tensor.nbytes for name, tensor in linears.items() if name != first)
    assert point.weights == sum(tensor.numel() for tensor in linears.values())
    assert point.coded_bits == 800 / linears[first].numel()


def test_the_bytes_of_an_artifact_are_those_on_disk(llama, data, without_ray, monkeypatch):
    on_disk = []

    def watched(plan, destination):
        result = compressing.compress(plan, destination)
        root = Path(destination.uri.removeprefix("file://"))
        on_disk.append(sum(file.stat().st_size for file in root.iterdir() if file.is_file()))
        return result

    monkeypatch.setattr(ours, "compress", watched)
    found = bench(llama, data[0], find_rivals([40], ["nwc"]))
    assert [point.nbytes for point in found.points] == on_disk


def test_ours_meets_the_rate_on_the_linear_layers_alone(llama, data, without_ray):
    found = bench(llama, data[0], find_rivals([6], ["nwc"]), scope="linears")
    assert found.points[0].bits == pytest.approx(6, abs=0.15)
    assert found.points[0].figures["top1_agreement"].value > 0.8


def test_round_to_nearest_counts_every_bit():
    weight = torch.randn(10, 100, generator=torch.Generator().manual_seed(0))
    back, nbytes = round_to_nearest(weight, bits=3, group=64)
    # 1,000 weights and 20 zero points of 3 bits, 20 scales of 16
    assert nbytes == math.ceil(1020 * 3 / 8) + 40
    for group in (slice(0, 64), slice(64, 100)):
        values, read = weight[:, group], back[:, group]
        assert max(len(row.unique()) for row in read) <= 8
        step = (values.amax(1).clamp(min=0) - values.amin(1).clamp(max=0)) / 7
        assert ((values - read).abs().amax(1) <= 0.51 * step + 1e-3).all()


def test_round_to_nearest_of_nothing_but_zeros():
    assert not round_to_nearest(torch.zeros(4, 32), 4, 32)[0].any()


# --- models of every kind


def test_an_encoder_whose_tensors_are_stored_under_a_prefix(data, tmp_path):
    found = bench(make_bert(tmp_path / "bert", head=True), data[0], [RoundToNearest(6, 32)], scope="linears", window=32)
    assert all(linear.name == f"bert.{linear.module}.weight" for linear in found.subject.linears)
    assert found.points[0].coded == 12
    assert found.points[0].figures["error_db"].value < -15


def test_the_pooler_of_an_encoder_is_coded_only_where_all_is(data, tmp_path):
    model = make_bert(tmp_path / "bert")
    for scope, layers in (("whole", 13), ("linears", 12)):
        assert len(bench(model, data[0], [], scope=scope, window=32).subject.linears) == layers


def test_a_classifier_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factory", raising=False)
    (tmp_path / "own_factory.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=rng.integers(0, 4, 50))
    model, options = make_cnn(tmp_path / "cnn"), {"factory": "own_factory:make"}
    wide = {
        "conv.weight": torch.randn(128, 3, 3, 3),
        "linear.weight": torch.randn(4, 128),
        "linear.bias": torch.zeros(4),
    }
    wide |= {f"norm.{name}": torch.full((128,), value) for name, value in NORM.items()}
    change_weights(model, lambda tensors: tensors.update(wide))
    (model / "config.json").write_text((model / "config.json").read_text().replace('"width": 32', '"width": 128'))
    point = bench(model, tmp_path / "images.npz", [RoundToNearest(4, 32)], **options).points[0]
    assert point.figures["agreement"].value > 0.5
    with pytest.raises(UsageError, match="no linear layers"):  # its only one is the head
        bench(model, tmp_path / "images.npz", [], scope="linears", **options)


def test_layers_that_are_stored_with_their_inputs_first(data, tmp_path):
    from evaluation_models import VOCABULARY, save_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=1, n_head=4, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    save_tokenizer(tmp_path / "gpt2")
    found = bench(tmp_path / "gpt2", data[0], [RoundToNearest(4, 64)], scope="linears")
    assert {tuple(found.subject.state[linear.name].shape) for linear in found.subject.linears if linear.transposed} == {
        *((64, 192), (64, 64), (64, 256), (256, 64))
    }
    # Groups run along the inputs: 64 x 192, 64 x 64 and 64 x 256 have one for each output, 256 x 64 four.
    integers = sum(n + n // 64 for n in (64 * 192, 64 * 64, 64 * 256, 256 * 64))
    scales = 192 + 64 + 256 + 4 * 64
    assert found.points[0].nbytes == integers // 2 + 2 * scales


def test_a_head_that_shares_the_embedding_is_no_layer(data, tmp_path):
    subject = bench(make_llama(tmp_path / "tied", tied=True), data[0], []).subject
    assert subject.head is None
    assert len(subject.linears) == 14


def test_mean_squares_of_a_layers_inputs():
    inputs = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))

    class Once:
        def outputs(self, model, advance):
            for batch in inputs:
                yield model(batch)

    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    found = Calibration(Once(), lambda: net).mean_squares([Linear("stored", "0")])
    assert torch.allclose(found["stored"], inputs.square().mean((0, 1)))
