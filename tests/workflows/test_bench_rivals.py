"""Adapters to other packages, each skipped where its package is missing: bytes by their formats, and weights read back."""

import os
from dataclasses import replace

import pytest
import torch
from evaluation_models import make_bert, make_llama, text

from nwc_core.errors import UsageError
from nwc_workflows.bench.models_preparation import prepare_bench
from nwc_workflows.bench.rivals.gguf import Gguf
from nwc_workflows.bench.rivals.gptq import Gptq
from nwc_workflows.bench.rivals.hqq import Hqq
from nwc_workflows.bench.rivals.nf4 import Nf4
from nwc_workflows.bench.rivals.registry import find_rivals
from nwc_workflows.bench.rivals.torchao import TorchAo
from nwc_workflows.evaluate import EvaluateOptions

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """A language model and an encoder, as methods get them, with calibration data."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "text.txt").write_text(text(200))
    (folder / "other.txt").write_text(text(600, seed=1))
    options = EvaluateOptions(folder / "text.txt", window=16)
    found = {}
    for name, make in (("llama", make_llama), ("bert", make_bert)):
        bench = prepare_bench(str(make(folder / name)), options, folder / "other.txt", "whole", [])
        found[name] = bench.run().subject
    return found


@pytest.fixture
def llama(subjects):
    return subjects["llama"]


def relative_error(subject, coded):
    """Of all coded weights."""
    pairs = [(coded[name].weight.double(), subject.state[name].double()) for name in coded]
    return sum(float((a - b).square().sum()) for a, b in pairs) / sum(float(b.square().sum()) for _, b in pairs)


def numel(subject, names):
    return sum(subject.state[name].numel() for name in names)


def test_every_method_has_a_setting_at_some_rate_and_names_of_its_own():
    found = find_rivals([2, 3, 4, 5, 6, 8], [])
    assert len({(rival.name, rival.setting) for rival in found}) == len(found)
    assert {rival.name for rival in found} >= {"rtn", "nwc", "gptq", "hqq", "nf4", "torchao", "gguf", "gguf-imatrix"}


def test_hqq(llama):
    pytest.importorskip("hqq")
    errors = []
    for bits in (3, 4, 8):
        found = Hqq(bits, 64).quantise(llama)
        assert len(found.coded) == 12  # the two of 96 inputs do not divide into groups
        assert all(coded.weight.shape == llama.state[name].shape for name, coded in found.coded.items())
        errors.append(relative_error(llama, found.coded))
        if bits != 3:  # ten weights of 3 bits in 32
            weights = numel(llama, found.coded)
            assert sum(coded.nbytes for coded in found.coded.values()) == weights * bits // 8 + 4 * weights // 64
    assert 0.1 > errors[0] > 3 * errors[1] > 30 * errors[2] > 0


def test_nf4(llama):
    pytest.importorskip("bitsandbytes")
    plain, double = (Nf4(double).quantise(llama).coded for double in (False, True))
    assert len(plain) == 14  # all but the head
    for name, coded in plain.items():
        weights = llama.state[name].numel()
        assert weights // 2 + 4 * weights // 64 < coded.nbytes < weights // 2 + 4 * weights // 64 + 200  # the codebook
    assert 0.005 < relative_error(llama, plain) < 0.012
    assert relative_error(llama, double) < 0.012


def test_torchao(llama):
    pytest.importorskip("torchao")
    int4, int8 = TorchAo(32).quantise(llama).coded, TorchAo(None).quantise(llama).coded
    assert len(int4) == len(int8) == 15  # the head, too
    assert sum(coded.nbytes for coded in int4.values()) == numel(llama, int4) // 2 + 4 * numel(llama, int4) // 32
    assert 1e-3 < relative_error(llama, int4) < 0.02
    assert relative_error(llama, int8) < 2e-4


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_gguf(subjects, model):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    subject = subjects[model]
    found = Gguf("Q8_0", False).quantise(subject)
    assert all(coded.nbytes == subject.state[name].numel() * 34 // 32 for name, coded in found.coded.items())
    assert {linear.name for linear in subject.linears if "pooler" not in linear.name} <= set(found.coded)
    assert relative_error(subject, found.coded) < 1e-4
    stored = sum(tensor.nbytes for name, tensor in subject.state.items() if name not in found.coded)
    assert found.other_nbytes > stored
    low = Gguf("Q4_K_M", False).quantise(subject)
    assert low.nbytes < found.nbytes
    assert 1e-4 < relative_error(subject, low.coded) < 0.01


def test_gguf_with_an_importance_matrix(llama):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    plain, calibrated = (Gguf("IQ4_XS", calibrated).quantise(llama).coded for calibrated in (False, True))
    loss = {}
    for label, coded in (("plain", plain), ("calibrated", calibrated)):
        errors = {name: (coded[name].weight - llama.state[name].float()).square() for name in llama.mean_squares}
        loss[label] = sum(float((errors[name] * squares).sum()) for name, squares in llama.mean_squares.items())
    assert loss["calibrated"] < 0.98 * loss["plain"]
    assert all(torch.equal(plain[name].weight, calibrated[name].weight) for name in plain if "embed" in name)


def test_gguf_says_which_models_it_takes(llama):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    other = replace(llama, model=replace(llama.model, config={"model_type": "mamba"}))
    with pytest.raises(UsageError, match="found 'mamba'"):
        Gguf("Q8_0", False).quantise(other)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "bert"])
def test_gptq(subjects, model):
    subject = subjects[model]
    rival = Gptq(4, 32)
    if rival.reason_missing():
        pytest.skip(rival.reason_missing())
    found = rival.quantise(subject)
    assert found.versions["llmcompressor"]
    assert set(found.coded) == {linear.name for linear in subject.linears}
    for name, coded in found.coded.items():
        weights, scale = subject.state[name].numel(), subject.state[name].element_size()
        groups = weights // 32
        assert coded.nbytes == weights // 2 + groups * scale + groups // 2 + 16  # and the shape
    assert relative_error(subject, found.coded) < 0.02


def test_gptq_says_what_its_interpreter_said(llama, monkeypatch):
    monkeypatch.setitem(os.environ, "NWC_GPTQ_PYTHON", "/bin/false")
    with pytest.raises(UsageError, match="exit status 1"):
        Gptq(4, 32).quantise(llama)
