"""The layers of a loaded model that methods code, and the tensors of the checkpoint that they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from nwc_core.codec import lossy_candidate
from nwc_core.dtypes import from_torch
from nwc_core.errors import UsageError
from nwc_workflows.bench.rivals.calibration import Calibration
from nwc_workflows.bench.rivals.rival import Linear, Scope, Subject
from nwc_workflows.evaluation.models import Kind
from nwc_workflows.evaluation.stored import StoredModel

if TYPE_CHECKING:
    import torch

    from nwc_workflows.calibration.reading import Calibration as Statistics


def make_subject(
    stored: StoredModel,
    model: torch.nn.Module,
    kind: Kind,
    scope: Scope,
    calibration: Calibration | None,
    calibrate: Callable[[], Statistics] | None = None,
) -> Subject:
    """A model as methods see it.

    Args:
        stored: a checkpoint.
        model: the same, loaded.
        calibration, calibrate: see `Subject`.

    Raises:
        UsageError: the scope is "linears", and there are no linear layers to code.
    """
    state = stored.state()
    found = list(_linears(model, state))
    output = _output_layer(model, kind, found)
    linears = tuple(linear for linear in found if linear is not output)
    if scope == "linears":
        # An encoder's embeddings do not pass its pooler: coding it would show in bytes and in no figure.
        linears = tuple(linear for linear in linears if not (kind == "encoder" and linear.module.startswith("pooler.")))
        if not linears:
            raise UsageError(f"--scope linears: {stored.uri} has no linear layers; wanted --scope whole")
        matrices = tuple(linear.name for linear in linears)
        return Subject(stored, state, scope, matrices, linears, None, calibration, calibrate)
    matrices = tuple(name for name, t in state.items() if lossy_candidate(from_torch(t.dtype).name, tuple(t.shape)))
    return Subject(stored, state, scope, matrices, linears, output, calibration, calibrate)


def _linears(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> Iterator[Linear]:
    """Linear layers in the order of the model. A checkpoint may leave out the prefix of its model, or have one more."""
    import torch

    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for module, layer in model.named_modules():
        transposed = type(layer).__name__ == "Conv1D"  # of transformers: a linear layer, but for the order of its axes
        if not (transposed or isinstance(layer, torch.nn.Linear)):
            continue
        inside = f"{module}.weight"
        for name in (inside, prefix + inside, inside.removeprefix(prefix)):
            if name in state and state[name].shape == layer.weight.shape:
                yield Linear(name, module, transposed)
                break


def _output_layer(model: torch.nn.Module, kind: Kind, linears: list[Linear]) -> Linear | None:
    """The head, which most tools leave alone: the one that transformers knows, or a classifier's last linear layer."""
    get = getattr(model, "get_output_embeddings", None)
    output = get() if get else None
    if output is not None:
        return next((linear for linear in linears if model.get_submodule(linear.module) is output), None)
    return linears[-1] if kind == "classifier" and linears else None
