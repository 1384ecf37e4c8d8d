"""Watching a model's products: --input-only, orientation and positions, whatever operation makes them."""

import sys

import numpy as np
import pytest
import torch
from calibration_models import calibrate_here, data_for, make, save_images
from safetensors.torch import load_file, save_file
from torch import nn

from nwc_workflows.calibration.watch import Lookup, Product, Watch
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.stored import open_model

WIDTH = 6


class Uses(nn.Module):
    """One weight, used in the way that is asked for."""

    def __init__(self, shape, use):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        self.use = use

    def forward(self, x):
        return self.use(x, self.weight)


def watched(shape, use, x):
    module = Uses(shape, use)
    seen = []
    with torch.no_grad(), Watch(module, lambda of: seen.append((of, getattr(of, "inputs", lambda: None)()))):
        module(x)
    return seen


X = torch.randn((2, 5, WIDTH), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("shape", "use", "axis"),
    [
        ((4, WIDTH), nn.functional.linear, 1),
        ((4, WIDTH), lambda x, w: x @ w.t(), 1),
        ((4, WIDTH), lambda x, w: torch.matmul(x, w.transpose(0, 1)), 1),
        ((4, WIDTH), lambda x, w: (w @ x.reshape(-1, WIDTH).t()).t(), 1),
        ((WIDTH, 4), lambda x, w: x @ w, 0),
        ((WIDTH, 4), lambda x, w: x.matmul(w), 0),
        ((WIDTH, 4), lambda x, w: torch.addmm(torch.zeros(4), x.reshape(-1, WIDTH), w), 0),
        ((WIDTH, 4), lambda x, w: torch.zeros(10, 4).addmm(x.reshape(-1, WIDTH), w), 0),
        ((WIDTH, 4), lambda x, w: x.reshape(-1, WIDTH).mm(w), 0),
        ((WIDTH, 4), lambda x, w: nn.functional.linear(x, w.t()), 0),
        ((WIDTH, WIDTH), lambda x, w: x @ w, 0),
        ((WIDTH, WIDTH), nn.functional.linear, 1),
        ((4, WIDTH, 1, 1), lambda x, w: nn.functional.linear(x, w.view(4, WIDTH)), 1),
    ],
)
def test_products_however_they_are_written(shape, use, axis):
    ((seen, inputs),) = watched(shape, use, X)
    assert isinstance(seen, Product)
    assert (seen.parameter, seen.input_axis, seen.matrix, seen.positions, seen.share) == ("weight", axis, None, 10, 1.0)
    torch.testing.assert_close(inputs, X.reshape(-1, WIDTH))
    assert seen.nbytes == 4 * 10 * (WIDTH + shape[1 - axis])


@pytest.mark.parametrize(
    ("shape", "use", "axis"),
    [
        ((2, WIDTH, 4), torch.bmm, 1),
        ((2, WIDTH, 4), lambda x, w: x @ w, 1),
        ((2, 4, WIDTH), lambda x, w: torch.bmm(x, w.transpose(1, 2)), 2),
        ((2, WIDTH, 4), lambda x, w: torch.baddbmm(torch.zeros(2, 5, 4), x, w), 1),
        ((2, 4, WIDTH), lambda x, w: torch.stack([nn.functional.linear(x[e], w[e]) for e in range(2)]), 2),
        ((2, 4, WIDTH), lambda x, w: torch.stack([x[e] @ w[torch.tensor(e)].t() for e in range(2)]), 2),
    ],
)
def test_stacked_weights_one_by_one(shape, use, axis):
    seen = watched(shape, use, X)
    assert [(of.input_axis, of.matrix, of.positions, of.share) for of, _ in seen] == [
        (axis, e, 5, 1.0) for e in range(2)
    ]
    for e in range(2):
        torch.testing.assert_close(seen[e][1], X[e])


def test_a_slice_of_the_outputs_is_a_share():
    seen = watched((4, WIDTH), lambda x, w: nn.functional.linear(x, w[:3]) @ torch.ones(3), X)
    assert [(of.share, of.positions) for of, _ in seen] == [(0.75, 10)]


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: torch.einsum("btn,mn->btm", x, w),
        lambda x, w: x @ (2 * w).t(),
        lambda x, w: x * w[0],
        lambda x, w: x[..., :3] @ w.reshape(3, 8),
    ],
)
def test_what_is_not_recognised_is_left_out(use):
    assert watched((4, WIDTH), use, X) == []


@pytest.mark.parametrize("use", [nn.functional.embedding, lambda i, w: w[i]])
def test_lookups(use):
    ((seen, _),) = watched((9, WIDTH), use, torch.tensor([[3, 3, 8]]))
    assert isinstance(seen, Lookup)
    assert seen.rows.tolist() == [[3, 3, 8]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("padding", [0, 1, (1, 2), "same", "valid"])
@pytest.mark.parametrize(("groups", "dilation", "stride"), [(1, 1, 1), (2, 1, 1), (4, (1, 2), 1), (2, 1, (2, 1))])
def test_patches_of_a_convolution(groups, dilation, stride, padding, bias):
    """What is multiplied with the weight: the output of the convolution is the proof."""
    if padding == "same" and stride != 1:
        pytest.skip("torch has no such convolution")
    convolution = nn.Conv2d(4, 8, (3, 5), stride, padding, dilation, groups, bias=bias)
    x = torch.randn(2, 4, 9, 11)
    seen = []
    with torch.no_grad(), Watch(convolution, lambda of: seen.append((of, of.inputs()))):
        y = convolution(x)
    ((product, patches),) = seen
    assert product.input_axis == -1
    assert product.positions == y[:, 0].numel() == patches.shape[1]
    out = torch.einsum("gpn,gmn->gmp", patches, convolution.weight.reshape(groups, 8 // groups, -1))
    out = out.reshape(8, 2, *y.shape[2:]).transpose(0, 1)
    torch.testing.assert_close(out + (convolution.bias[:, None, None] if bias else 0), y)


@pytest.mark.parametrize("make_layer", [lambda: nn.Conv1d(4, 6, 3, 2, 1), lambda: nn.Conv3d(4, 6, 2)])
def test_patches_in_one_and_three_dimensions(make_layer):
    layer = make_layer()
    x = torch.randn(2, 4, *[7] * (layer.weight.ndim - 2))
    seen = []
    with torch.no_grad(), Watch(layer, lambda of: seen.append(of.inputs())):
        y = layer(x)
    out = (seen[0][0] @ layer.weight.reshape(6, -1).T).T.reshape(6, 2, *y.shape[2:]).transpose(0, 1)
    torch.testing.assert_close(out + layer.bias.reshape(-1, *[1] * (y.ndim - 2)), y)


def inputs_by_hooks(module, items):
    """Sums of x x' of every nn.Linear, by plain hooks."""
    sums = {}

    def hook(name):
        def add(layer, inputs):
            x = inputs[0].reshape(-1, layer.weight.shape[1]).double()
            sums[name] = sums.get(name, 0) + x.T @ x

        return add

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(hook(name))
    with torch.inference_mode():
        for inputs in items:
            module(**inputs)
    return sums


def test_input_only_is_the_moment_of_the_inputs(tmp_path):
    pytest.importorskip("transformers")
    folder = make(tmp_path / "model", "llama")
    data = data_for(tmp_path, "llama", words=2000)
    calibration = calibrate_here(folder, data, tmp_path / "out", window=24, input_only=True).calibration
    assert calibration.input_only
    stored = open_model(str(folder))
    from transformers import AutoTokenizer

    tokens = torch.tensor(AutoTokenizer.from_pretrained(folder)(data.read_text())["input_ids"])
    windows = [window[None, :-1] for window in tokens.split(24) if len(window) > 1]
    wanted = inputs_by_hooks(load_model(stored, stored, "language", None), [{"input_ids": w} for w in windows])
    record = {weight.name: weight for weight in calibration.record.weights}
    assert {f"{name}.weight" for name in wanted} == set(record) - {"model.embed_tokens.weight"}
    for name, moment in wanted.items():
        found, share = calibration.get(f"{name}.weight"), record[f"{name}.weight"].shrinkage[0]
        n = len(moment)
        mixed = (1 - share) * moment.numpy() * n / float(moment.trace()) + share * np.eye(n)
        np.testing.assert_allclose(found.hessian[0], mixed, atol=2e-4)
        assert 0 <= share < 0.2
        assert found.rows is None
        assert found.positions.tolist() == [sum(window.numel() for window in windows)]
    table = calibration.get("model.embed_tokens.weight")
    counts = torch.bincount(torch.cat(windows, 1)[0], minlength=64).numpy() + 0.5
    np.testing.assert_allclose(table.rows[0], counts / counts.sum(), rtol=1e-5)
    assert table.hessian is None


def test_input_only_sees_each_expert_by_itself(tmp_path):
    pytest.importorskip("transformers")
    folder = make(tmp_path / "model", "mixtral")
    found = calibrate_here(
        folder, data_for(tmp_path, "mixtral", words=2000), tmp_path / "out", window=24, input_only=True
    ).calibration
    record = {weight.name: weight for weight in found.record.weights}
    for layer in range(2):
        name = "model.layers.{}.block_sparse_moe.experts.{}.{}.weight"
        positions = [record[name.format(layer, e, "w1")].positions[0] for e in range(4)]
        assert (
            sum(positions) == 2 * record["model.layers.0.self_attn.q_proj.weight"].positions[0]
        )  # two experts a token
        assert len(set(positions)) > 1
        assert positions == [record[name.format(layer, e, "w2")].positions[0] for e in range(4)]
        one, other = (found.get(name.format(layer, e, "w1")).hessian for e in (0, 1))
        assert not np.allclose(one, other)
        np.testing.assert_array_equal(one, found.get(name.format(layer, 0, "w3")).hessian)


FUSED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.LSTM(8, 6, batch_first=True)
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.linear(self.recurrent(x)[0][:, -1])

def make(config):
    return Net()
"""


def test_operations_that_are_fused(tmp_path, monkeypatch):
    """Gradients reach them; their inputs are not seen, which is said."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fused_factory", raising=False)
    (tmp_path / "fused_factory.py").write_text(FUSED)
    import fused_factory

    torch.manual_seed(0)
    module = fused_factory.make({})
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(module.state_dict(), folder / "model.safetensors")
    images = save_images(tmp_path, 12)
    weights = {name for name, tensor in load_file(folder / "model.safetensors").items() if tensor.ndim >= 2}
    options = {"factory": "fused_factory:make"}
    found = calibrate_here(folder, images, tmp_path / "out", **options).calibration
    assert set(found.names) == weights
    assert found.get("attention.in_proj_weight").positions.tolist() == [12]  # items, where positions are not seen
    assert found.get("patches.weight").positions.tolist() == [12 * 16]
    inputs = calibrate_here(folder, images, tmp_path / "inputs", input_only=True, **options).calibration
    assert set(inputs.names) == {"patches.weight", "linear.weight"}
    assert {of.name: of.reason for of in inputs.record.unreached} == dict.fromkeys(
        weights - {"patches.weight", "linear.weight"}, "no item reached it"
    )
