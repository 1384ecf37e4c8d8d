"""Where the tensors of a checkpoint go, found by loading numbers in place of weights."""

import numpy as np
import pytest
import torch
from calibration_models import FAMILIES, models_by_family  # noqa: F401
from torch import nn

from nwc_core.matrices import Layout
from nwc_workflows.calibration.locate import locate
from nwc_workflows.calibration.placement import Placement
from nwc_workflows.calibration.source import ModelSource


class Holder(nn.Module):
    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor.clone(), requires_grad=False))


def taken_apart(pieces, module, state):
    """Every located element of every tensor, read back out of the module."""
    found = {}
    for of in pieces.values():
        for piece in of:
            tensor = state[piece.tensor]
            where = [
                np.arange(n)[p] if isinstance(p, slice) else p for n, p in zip(tensor.shape, piece.places, strict=True)
            ]
            target = found.setdefault(piece.tensor, torch.full(tensor.shape, torch.nan))
            target[np.ix_(*where)] = piece.cut(module.get_parameter(piece.parameter)).clone()
    return found


def check(make_parameters, *shapes, lost=()):
    """`make_parameters` turns the checkpoint's tensors a, b, ... into parameters, as a library's loading would."""
    random = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=random) for name, shape in zip("abcd", shapes, strict=False)}

    def load(tensors):
        return Holder(make_parameters(**tensors))

    pieces = locate({name: tuple(tensor.shape) for name, tensor in state.items()}, load)
    found = taken_apart(pieces, load(state), state)
    for name, tensor in state.items():
        if name in lost:
            assert name not in found
        else:
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    return pieces


@pytest.mark.parametrize(
    ("change", "shapes"),
    [
        (lambda a: {"w": a}, [(3, 3)]),
        (lambda a: {"w": a.t()}, [(3, 3)]),
        (lambda a, b: {"w": torch.cat([a, b])}, [(3, 4), (2, 4)]),
        (lambda a, b: {"w": torch.cat([a, b], 1)}, [(3, 4), (3, 2)]),
        (lambda a, b: {"w": torch.cat([a, b], 1).t()}, [(3, 4), (3, 2)]),
        (lambda a, b: {"w": torch.stack([a, b])}, [(3, 3), (3, 3)]),
        (lambda a, b, c, d: {"w": torch.cat([torch.stack([a, b]), torch.stack([c, d])], 1)}, [(3, 4)] * 4),
        (lambda a, b: {"w": torch.stack([a.t(), b.t()])}, [(4, 4), (4, 4)]),
        (lambda a: dict(zip("xyz", a.chunk(3), strict=True)), [(6, 4)]),
        (lambda a: {"w": a.reshape(2, 3, 4).transpose(0, 1).reshape(6, 4)}, [(6, 4)]),  # rotary halves
        (lambda a: {"w": a.flip(0)}, [(5, 4)]),
        (lambda a, b: {"w": torch.stack([a, b])}, [(1, 4), (1, 4)]),
        (lambda a: {"w": a[None]}, [(5, 1)]),
        (lambda a: {"w": a.permute(0, 2, 1)}, [(2, 3, 3)]),
        (lambda a: {"x": a[0], "y": a[1]}, [(2, 3, 4)]),
        (lambda a: {"w": a}, [(2, 3, 3, 3)]),
    ],
)
def test_whatever_loading_does_is_undone(change, shapes):
    check(change, *shapes)


def test_what_is_changed_is_not_found():
    def change(a, b, c):
        return {"x": a + 0.5, "y": torch.cat([b, torch.randn(1, 4)]), "z": c.t() @ c, "w": torch.randn(3, 4)}

    assert check(change, (3, 4), (3, 4), (3, 4), lost=("a", "b", "c")) == {}


def test_an_axis_that_is_reshaped_away_is_not_found():
    check(lambda a: {"w": a.reshape(6, 2)}, (3, 4), lost=("a",))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_transformers(family, models, tmp_path):
    pytest.importorskip("transformers")
    folder = models(family)
    kind = {"t5": "seq2seq", "bert": "encoder", "bert-with-head": "encoder", "albert": "encoder"}.get(
        family, "language"
    )
    kind = "classifier" if family in ("vit", "swin", "resnet", "mobilenet") else kind
    source = ModelSource(str(folder), kind, None, str(tmp_path))
    stored = source.open()
    state = {name: tensor.float() for name, tensor in stored.state().items()}
    pieces = locate({n: tuple(t.shape) for n, t in state.items()}, lambda numbers: source.build(stored, numbers))
    found = taken_apart(pieces, source.build(stored, state), state)
    assert {name for name, tensor in state.items() if tensor.ndim >= 2} - set(found) <= {
        "cls.predictions.transform.dense.weight"
    }
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "shape", "layout"),
    [
        (lambda a, b: {"w": torch.cat([b, a])}, (3, 4), Layout((0, 1), 0, 1)),
        (lambda a, b: {"w": torch.cat([b, a])}, (3, 4), Layout((1, 0), 0, 1)),
        (lambda a, b: {"w": torch.stack([b, a])}, (3, 4), Layout((1, 0), 0, 1)),
        (lambda a, b: {"w": torch.cat([b, a])}, (2, 3, 4), Layout((0, 2, 1), 1, 1)),
        (lambda a, b: {"w": torch.cat([b, a], 1)}, (2, 3, 4), Layout((0, 2, 1), 1, 1)),
        (lambda a, b: {"x": torch.cat([a, b])[:1], "y": torch.cat([a, b])[1:]}, (3, 4), Layout((0, 1), 0, 1)),
        (lambda a, b: {"x": a[:, :, :2], "y": a[:, :, 2:]}, (2, 3, 4), Layout((0, 2, 1), 1, 1)),
        (lambda a, b: {"w": a.flip(0), "x": b}, (2, 3, 5, 5), Layout((0, 1, 2, 3), 0, 1)),
    ],
)
def test_parts_of_matrices(change, shape, layout):
    """The matrices of a tensor, put together from its parts in the module, are those of the layout."""
    random = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=random) for name in "ab"}
    pieces = locate(dict.fromkeys("ab", shape), lambda tensors: Holder(change(**tensors)))
    module = Holder(change(**state))
    wanted = layout.to_matrices(state["a"].numpy())
    found = np.full_like(wanted, np.nan)
    for of in pieces.values():
        for piece in of:
            if piece.tensor == "a":
                placement = Placement(piece, layout, shape)
                found[np.ix_(*placement.places)] = placement.matrices_of(module.get_parameter(piece.parameter))
    np.testing.assert_array_equal(found, wanted)
