"""Methods of `nwc bench models` that use what `nwc calibrate` finds out: made once or given, whole or of some tensors."""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration_models import calibrate_here
from evaluation_models import FACTORY, change_weights, make_bert, make_llama, text
from safetensors.torch import save_file

from nwc_core.codec import Codec
from nwc_core.errors import FormatError, UsageError
from nwc_core.wire import ByteReader
from nwc_infra.cluster import RayCluster
from nwc_infra.scheduler import Outcome
from nwc_workflows import calibrate as calibrating
from nwc_workflows import compress as compressing
from nwc_workflows import tasks
from nwc_workflows.bench.models_preparation import prepare_bench
from nwc_workflows.bench.rivals import statistics as origins
from nwc_workflows.bench.rivals.gguf import Gguf
from nwc_workflows.bench.rivals.nwc import Compression
from nwc_workflows.bench.rivals.parts import parts_off
from nwc_workflows.bench.rivals.registry import find_rivals
from nwc_workflows.bench.rivals.subject import make_subject
from nwc_workflows.bench.rivals.waterfilling import WaterFilling, _plain_codec
from nwc_workflows.calibration.reading import Calibration
from nwc_workflows.evaluate import EvaluateOptions
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.stored import open_model

pytest.importorskip("transformers")

BITS = 6.6  # of the whole file, codec and all; the matrices of a model this small get about 3


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """(model, data to evaluate on, data to calibrate on, its calibration). Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("llama")
    model = make_llama(folder / "model")
    (folder / "text.txt").write_text(text(333))
    (folder / "other.txt").write_text(text(400, seed=1))
    calibrate_here(model, folder / "other.txt", folder / "calibration", window=32)
    return model, folder / "text.txt", folder / "other.txt", folder / "calibration"


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """Calibrates and compresses in this process."""

    def run(function, jobs, *, shared, **bounds):
        for job in jobs:
            yield Outcome(job, function(*job.args, **shared), None)

    for module in (calibrating, tasks):
        monkeypatch.setattr(module, "run_bounded", run)
    for module in (calibrating, compressing):
        monkeypatch.setattr(module, "cluster", lambda address, workers: nullcontext(RayCluster(None, 1)))


def bench(llama, rivals, scope="whole", *, data=False, calibration=None):
    options = EvaluateOptions(llama[1], window=32)
    return prepare_bench(str(llama[0]), options, llama[2] if data else None, scope, rivals, calibration)


def kl(results):
    return {point.rival.name: point.figures["kl"].value for point in results.points}


def subject_of(llama, scope="whole"):
    stored = open_model(str(llama[0]))
    model = load_model(stored, stored, "language", None)
    return make_subject(stored, model, "language", scope, None, lambda: Calibration.open(llama[3]))


# --- where statistics come from


def test_the_calibration_is_made_once_and_gone_afterwards(llama, monkeypatch):
    made = []

    def watched(prepared, destination):
        made.append(destination)
        return calibrating.calibrate(prepared, destination)

    monkeypatch.setattr(origins, "calibrate", watched)
    rivals = [*find_rivals([BITS, BITS + 1], ["nwc-calibrated"]), *find_rivals([4], ["scalar-waterfilling"])]
    found = bench(llama, rivals, data=True).run()
    assert [point.rival.name for point in found.points] == ["scalar-waterfilling", *2 * ["nwc-calibrated"]]
    assert len(made) == 1
    assert not list(made[0].list(""))


def test_a_calibration_that_is_given_is_used(nwc, llama, monkeypatch):
    monkeypatch.setattr(origins, "calibrate", None)  # is not to be called
    options = ["--data", llama[1], "--window", 32, "--calibration", llama[3], "--bits", BITS, "--output", "json"]
    code, found, err = nwc("bench", "models", llama[0], *options, "--method", "nwc-calibrated", "--method", "nwc")
    assert code == 0, err
    found = json.loads(found)
    assert found["calibration_fingerprint"] == Calibration.open(llama[3]).fingerprint
    assert found["calibration"] is None
    loss = {point["method"]: point["figures"]["kl"]["value"] for point in found["points"]}
    assert loss["nwc-calibrated"] < 0.6 * loss["nwc"]
    assert len({round(point["bits_per_weight"], 1) for point in found["points"]}) == 1


def test_what_needs_data_is_not_content_with_a_calibration(llama, monkeypatch):
    monkeypatch.setattr(Gguf, "reason_missing", lambda self: None)
    found = bench(llama, [Gguf("Q4_K_M", calibrated=True)], calibration=str(llama[3])).run()
    assert found.left_out[0].reason == "needs --calibration-data"


def test_without_either_nothing_is_calibrated(llama):
    found = bench(llama, find_rivals([4], ["nwc-calibrated", "nwc-paper-calibrated", "scalar-waterfilling"])).run()
    assert {entry.reason for entry in found.left_out} == {"needs --calibration or --calibration-data"}
    assert len(found.left_out) == 3
    with pytest.raises(UsageError, match="neither a calibration nor data for one"):
        WaterFilling(4).quantise(replace(subject_of(llama), calibrate=None))


def test_the_calibration_of_another_model_is_refused(llama, tmp_path):
    other = make_llama(tmp_path / "other")
    change_weights(other, lambda tensors: tensors["lm_head.weight"].mul_(1.01))
    with pytest.raises(FormatError, match="statistics of a model with other weights"):
        bench((other, *llama[1:]), [], calibration=str(llama[3]))


def test_a_calibration_on_the_data_of_the_test_is_refused(llama):
    with pytest.raises(UsageError, match=r"--calibration: found .*, made on the data of --data"):
        bench((llama[0], llama[2]), [], calibration=str(llama[3]))


# --- what methods make of them


def test_in_the_scope_of_linears_statistics_are_of_these_alone(llama):
    subject = subject_of(llama, "linears")
    found = Compression("nwc-calibrated", "default", 5.0, needs="statistics").quantise(subject)
    assert set(found.coded) == {linear.name for linear in subject.linears}
    rates = [8 * coded.nbytes / coded.weight.numel() for coded in found.coded.values()]
    assert max(rates) - min(rates) > 0.5  # spent where they matter
    weights = sum(coded.weight.numel() for coded in found.coded.values())
    assert 8 * sum(coded.nbytes for coded in found.coded.values()) / weights == pytest.approx(5, abs=0.15)


def test_the_published_codec_shapes_its_errors_with_a_calibration(llama):
    subject = subject_of(llama, "linears")
    few = replace(subject, matrices=subject.matrices[:1])  # it is slow
    plain, shaped = (rival.quantise(few) for rival in find_rivals([4], ["nwc-paper", "nwc-paper-calibrated"])[::-1])
    for name in few.matrices:
        hessian = torch.from_numpy(few.statistics.get(name).hessian[0])
        assert _loss(few, shaped, name, hessian) < 0.9 * _loss(few, plain, name, hessian)
        assert shaped.coded[name].nbytes == pytest.approx(plain.coded[name].nbytes, rel=0.05)


def test_water_filling_beats_the_plain_scalar_quantiser_and_ours_beats_it(llama):
    rivals = [*find_rivals([5], ["scalar-waterfilling", "nwc-calibrated", "nwc"])]
    loss = kl(bench(llama, rivals, "linears", calibration=str(llama[3])).run())
    assert loss["nwc-calibrated"] < loss["scalar-waterfilling"]
    subject = subject_of(llama, "linears")
    shaped, weighed = WaterFilling(5.0).quantise(subject), 0.0
    plain = WaterFilling(5.0).quantise(replace(subject, calibrate=_NoStatistics))
    for name, coded in plain.coded.items():
        hessian = torch.from_numpy(subject.statistics.get(name).hessian[0])
        losses = [_loss(subject, found, name, hessian) for found in (shaped, plain)]
        weighed += np.log(losses[0] / losses[1]) / len(plain.coded)
        assert shaped.coded[name].nbytes == pytest.approx(coded.nbytes, rel=0.02)
    assert weighed < np.log(0.9)


class _NoStatistics:
    def get(self, name):
        return None


def _loss(subject, found, name, hessian):
    error = found.coded[name].weight.float() - subject.state[name].float()
    return float((error @ hessian * error).sum())


def test_water_filling_counts_the_bytes_of_each_tensor_and_leaves_the_rest_as_stored(llama):
    subject = subject_of(llama)
    found = WaterFilling(4.0).quantise(subject)
    assert set(found.coded) == {name for name, tensor in subject.state.items() if tensor.ndim == 2}
    rest = sum(tensor.nbytes for tensor in subject.state.values() if tensor.ndim == 1)
    header = subject.model.nbytes - sum(tensor.nbytes for tensor in subject.state.values())
    assert found.other_nbytes == rest + header
    name = "model.layers.0.mlp.up_proj.weight"
    hessian = torch.from_numpy(subject.statistics.get(name).hessian)
    alone = _plain_codec().encode(subject.state[name], 4.0, preset="scalar", hessian=hessian)
    assert found.coded[name].nbytes == len(alone.to_bytes())


def test_water_filling_has_no_bases():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((512, 64), np.float32)
    matrix += 8 * rng.standard_normal((512, 1), np.float32) * rng.standard_normal((1, 64), np.float32)
    found = []
    for coder in (Codec.load("default").coder, _plain_codec().coder):
        coded = coder.encode(matrix, 4.0, n_states=1, taps=1, threads=1)
        found.append(coder.read(ByteReader(coded.data, "coded"), 512, 64).stream.header.bases)
    assert found[0]
    assert not found[1]


# --- models of other kinds


def test_an_encoder(tmp_path):
    (tmp_path / "text.txt").write_text(text(333))
    (tmp_path / "other.txt").write_text(text(200, seed=1))
    model = make_bert(tmp_path / "bert", head=True)
    rivals = find_rivals([4], ["nwc", "nwc-calibrated"])
    options = EvaluateOptions(tmp_path / "text.txt", window=32)
    found = prepare_bench(str(model), options, tmp_path / "other.txt", "linears", rivals).run()
    error = {point.rival.name: point.figures["error_db"].value for point in found.points}
    assert error["nwc-calibrated"] < error["nwc"] - 1
    assert {point.coded for point in found.points} == {12}


def test_a_classifier_with_convolutions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factory", raising=False)
    (tmp_path / "own_factory.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    for name, count in (("images", 50), ("others", 60)):
        images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=rng.integers(0, 4, count))
    torch.manual_seed(0)
    weights = {
        "conv.weight": torch.randn(128, 3, 3, 3),
        "norm.weight": torch.ones(128),
        "norm.bias": torch.zeros(128),
        "norm.running_mean": torch.zeros(128),
        "norm.running_var": torch.ones(128),
        "linear.weight": torch.randn(4, 128),
        "linear.bias": torch.zeros(4),
    }
    model = tmp_path / "cnn"
    model.mkdir()
    save_file(weights, model / "model.safetensors")
    described = {"width": 128, "classes": 4, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "arch": "own"}
    (model / "config.json").write_text(json.dumps(described))
    options = EvaluateOptions(tmp_path / "images.npz", factory="own_factory:make")
    rivals = [Compression("nwc-calibrated", "default", 5.0, of_coded=True, needs="statistics"), WaterFilling(5.0)]
    found = prepare_bench(str(model), options, tmp_path / "others.npz", "whole", rivals).run()
    assert not found.left_out
    for point in found.points:
        assert point.coded == 1  # the linear layer is too small
        assert point.coded_bits == pytest.approx(5, abs=0.3)
        assert point.figures["agreement"].value > 0.8


# --- one part off at a time


def test_every_part_can_be_switched_off_by_itself(llama):
    subject = subject_of(llama)
    variants = parts_off([4.0])
    assert len({variant.setting for variant in variants}) == len(variants)
    weights = {}
    for variant in variants:
        found = variant.quantise(subject)
        numel = sum(subject.state[name].numel() for name in found.coded)
        assert 8 * sum(coded.nbytes for coded in found.coded.values()) / numel == pytest.approx(4.0, abs=0.1)
        weights[variant.what] = torch.cat([coded.weight.flatten().float() for coded in found.coded.values()])
    same = [what for what, other in weights.items() if torch.equal(other, weights["all parts"])]
    assert same == ["all parts", "neither bases nor transforms"]  # random weights have no use for these


def test_an_ablation_takes_no_methods(nwc, llama):
    code, _, err = nwc("bench", "models", llama[0], "--data", llama[1], "--window", 32, "--ablation", "--method", "rtn")
    assert code == 2
    assert "--ablation: found --method besides" in err
