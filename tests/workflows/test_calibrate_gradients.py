"""What is added up over the items is what it is said to be, and predicts what an error in a weight does."""

import sys

import numpy as np
import pytest
import torch
from calibration_models import FAMILIES, calibrate_here, data_for, models_by_family, save_images  # noqa: F401
from safetensors.torch import load_file, save_file

from nwc_workflows.calibration.gather import Gathering
from nwc_workflows.calibration.items import generator
from nwc_workflows.calibration.preparation import CalibrateOptions, prepare
from nwc_workflows.calibration.survey import survey
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.stored import open_model

pytest.importorskip("transformers")

# What no embedding depends on.
UNUSED = {
    "bert": {"pooler.dense.weight"},
    "bert-with-head": {"cls.predictions.transform.dense.weight"},
    "albert": {"pooler.weight"},
}
PREDICTED = ("llama", "tied-llama", "gpt2", "t5", "bert", "mixtral-all", "resnet", "vit")


pytestmark = pytest.mark.usefixtures("one_thread")


def module_of(folder, prepared):
    stored = open_model(str(folder))
    return load_model(stored, stored, prepared.source.kind, None)


def parts(values):
    """What a tensor of a checkpoint may be of a parameter: all, one expert, one half of its rows."""
    yield values
    if values.ndim == 3:
        for of in values:
            yield from (of, of[: len(of) // 2], of[len(of) // 2 :])


def gradients_by_content(module, gradients, state):
    """Gradients of a checkpoint's tensors, each found in the module by its values, which are all different."""
    found = {}
    for name, tensor in state.items():
        for parameter, gradient in gradients.items():
            for values, part in zip(parts(module.get_parameter(parameter)), parts(gradient), strict=True):
                if values.shape == tensor.shape and torch.equal(values, tensor):
                    found[name] = part
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_are_those_of_each_items_gradient(family, models, tmp_path):
    """Against gradients of a module of its own, taken apart by hand."""
    folder = models(family)
    prepared = prepare(str(folder), CalibrateOptions(data_for(tmp_path, family), window=24))
    found = survey(prepared.source, prepared.items)
    module = module_of(folder, prepared)
    state = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if tensor.ndim >= 2}
    count = min(4, prepared.items.count)
    gathering = Gathering(module, found.placements, input_only=False, seed=3)
    gathering.run(prepared.items, 0, count)
    assert not any(parameter.requires_grad for parameter in module.parameters())

    parameters = {name: p for name, p in module.named_parameters() if p.ndim >= 2}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    wanted = {name: [0.0, 0.0] for name in found.placements}
    for number, inputs in enumerate(prepared.items.inputs(0, count)):
        score = prepared.items.score(prepared.items.forward(module, inputs), generator(3, "item", number))
        of = torch.autograd.grad(score, list(parameters.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(parameters, of, strict=True) if g is not None}
        gradients = gradients_by_content(module, gradients, state)
        for name, sums in wanted.items():
            if name not in gradients:
                continue
            G = gradients[name]
            layout = found.placements[name][0].layout
            matrices = layout.to_matrices(G.double().numpy())
            sums[0] += np.einsum("kmi,kmj->kij", matrices, matrices)
            sums[1] += (matrices**2).sum(2)
    assert {name for name, (_, rows) in wanted.items() if np.any(rows)} == set(wanted) - UNUSED.get(family, set())
    for name, (hessian, rows) in wanted.items():
        sums = gathering.sums[name]
        scale = max(float(np.max(rows)), 1e-30)
        np.testing.assert_allclose(sums.rows.numpy() / scale, rows / scale, atol=1e-4, err_msg=name)
        if sums.rows.shape[1] <= 256:  # beyond, products of rows are estimated
            scale = max(float(np.max(np.abs(hessian))), 1e-30)
            upper = np.triu(np.ones(sums.hessian.shape))  # only this is meant
            np.testing.assert_allclose(
                upper * sums.hessian.numpy() / scale, upper * hessian / scale, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize(
    ("family", "order"),
    [
        ("llama", {"self_attn.q_proj.weight": (0, 1), "model.embed_tokens.weight": (0, 1), "lm_head.weight": (0, 1)}),
        ("gpt2", {"attn.c_attn.weight": (1, 0), "mlp.c_proj.weight": (1, 0), "transformer.wte.weight": (0, 1)}),
        ("gpt-oss", {"experts.gate_up_proj": (0, 2, 1), "experts.down_proj": (0, 2, 1), "router.weight": (0, 1)}),
        ("mixtral", {"experts.0.w1.weight": (0, 1), "gate.weight": (0, 1)}),
        ("resnet", {"embedder.convolution.weight": (0, 1, 2, 3)}),
    ],
)
def test_columns_are_what_the_input_runs_along(family, order, models, tmp_path):
    folder = models(family)
    prepared = prepare(str(folder), CalibrateOptions(data_for(tmp_path, family), window=24))
    found = survey(prepared.source, prepared.items)
    for ending, wanted in order.items():
        of = [placement[0].layout for name, placement in found.placements.items() if name.endswith(ending)]
        assert of
        assert {layout.order for layout in of} == {wanted}
        if ending.startswith("experts.") and len(wanted) == 3:
            assert {(layout.batch, layout.rows) for layout in of} == {(1, 1)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_has_statistics(family, models, tmp_path):
    folder = models(family)
    found = calibrate_here(folder, data_for(tmp_path, family), tmp_path / "out", window=24).calibration
    weights = {name for name, tensor in load_file(folder / "model.safetensors").items() if tensor.ndim >= 2}
    apart = UNUSED.get(family, set())
    assert {weight.name for weight in found.record.unreached} == apart
    assert set(found.names) == weights - apart
    for name in found.names:
        statistics = found.get(name)
        k, m, n = statistics.layout.matrix_shape(tuple(load_file(folder / "model.safetensors")[name].shape))
        assert statistics.hessian.shape == (k, n, n)
        assert statistics.rows.shape == (k, m)
        assert statistics.rows.min() > 0
        np.testing.assert_allclose(np.trace(statistics.hessian, axis1=1, axis2=2), n, rtol=1e-4)
        np.testing.assert_array_equal(statistics.hessian, statistics.hessian.transpose(0, 2, 1))
        assert np.linalg.eigvalsh(statistics.hessian).min() > -1e-4
        assert statistics.positions.shape == (k,)


@pytest.fixture
def linear(tmp_path, monkeypatch):
    """(folder, images) of a linear classifier of all pixels."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flat_factory", raising=False)
    (tmp_path / "flat_factory.py").write_text(
        "import torch\n\ndef make(config):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))\n"
    )
    folder = tmp_path / "model"
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 12, generator=random)
    save_file({"1.weight": weight, "1.bias": torch.zeros(5)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}')
    return folder, save_images(tmp_path, 3000, size=2), weight


def test_a_linear_classifier_has_the_fisher_matrix_of_the_textbook(linear, tmp_path):
    """The gradient's covariance is (diag p - p p') times x x': H is sum (1 - |p|^2) x x', rows sum |x|^2 p (1 - p)."""
    folder, images, weight = linear  # directions are drawn, so 3,000 images meet it within some percent
    found = calibrate_here(folder, images, tmp_path / "out", factory="flat_factory:make").calibration.get("1.weight")
    x = np.load(images)["images"].transpose(0, 3, 1, 2).reshape(3000, 12) / 255 * 2 - 1
    p = torch.softmax(torch.from_numpy(x).float() @ weight.T, 1).double().numpy()
    hessian = np.einsum("t,ti,tj->ij", 1 - (p**2).sum(1), x, x) / len(x)
    rows = ((x**2).sum(1)[:, None] * p * (1 - p)).mean(0)
    hessian_found = found.hessian[0] * found.rows.sum()
    np.testing.assert_allclose(hessian_found, hessian, atol=0.05 * np.diag(hessian).mean())
    np.testing.assert_allclose(found.rows[0] * 12, rows, rtol=0.06)


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family == "llama" else pytest.mark.slow) for family in PREDICTED],
)
def test_the_predicted_loss_is_the_measured_one(family, models, tmp_path):
    """Of small random errors in one weight at a time: KL per token or image, or the squared error of an embedding."""
    folder = models(family)
    data = data_for(tmp_path, family, words=1000, images=200)
    found = calibrate_here(folder, data, tmp_path / "out", window=24).calibration
    prepared = prepare(str(folder), CalibrateOptions(data, window=24))
    module = module_of(folder, prepared)
    placements = survey(prepared.source, prepared.items).placements
    inputs = list(prepared.items.inputs(0, prepared.items.count))

    def outputs():
        with torch.inference_mode():
            found = [prepared.items.forward(module, one).double() for one in inputs]
        return torch.cat(found if family == "bert" else [logits.log_softmax(-1) for logits in found])

    before, ratios = outputs(), []
    for name in found.names[:: max(1, len(found.names) // 5)]:
        statistics, piece = found.get(name), placements[name][0].piece
        weight = piece.cut(module.get_parameter(piece.parameter).data)
        stored, predicted, measured = weight.clone(), 0.0, 0.0
        for seed in range(12):
            error = 0.001 * stored.std() * torch.randn(stored.shape, generator=torch.Generator().manual_seed(seed))
            e = statistics.layout.to_matrices(error.double().numpy())
            predicted += 0.5 * np.einsum("km,kmi,kij,kmj", statistics.rows, e, statistics.hessian, e, optimize=True)
            weight.copy_(stored + error)
            after = outputs()
            loss = (before - after).square() if family == "bert" else before.exp() * (before - after)
            measured += float(loss.sum()) / prepared.items.predictions
        weight.copy_(stored)
        ratios.append(predicted / measured)
    assert 0.6 < min(ratios) < max(ratios) < 1.7, ratios
    assert 0.8 < np.exp(np.mean(np.log(ratios))) < 1.25, ratios
