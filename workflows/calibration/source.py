"""The model that is calibrated, as a worker process sees it: loaded once, kept for the tasks that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nwc_core.errors import IntegrityError
from nwc_core.lossless import tensor_bytes
from nwc_workflows.evaluation.models import Kind, find_factory, load_model
from nwc_workflows.evaluation.stored import StoredModel, open_model
from nwc_workflows.weights_digest import weights_digest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelSource:
    """Which model, for a worker to open.

    Attributes:
        location: path or URI.
        kind: which class of transformers.
        factory: "module:function" that makes it instead; None for transformers.
        folder: where that module may lie: the current directory of the command, since a worker has another.
    """

    location: str
    kind: Kind
    factory: str | None
    folder: str

    def open(self) -> StoredModel:
        """The model where it lies."""
        return open_model(self.location)

    def build(self, stored: StoredModel, state: dict[str, torch.Tensor]) -> torch.nn.Module:
        """The module with these weights; see `load_model` for errors."""
        import torch

        factory = find_factory(self.factory, self.folder) if self.factory else None
        module = load_model(replace(stored, state=lambda: dict(state)), stored, self.kind, factory)
        # Experts one by one: the other ways copy the weights that they use, and copies are not recognised.
        if hasattr(module, "set_experts_implementation"):
            module.set_experts_implementation("eager")  # type: ignore[operator]
        torch.backends.mha.set_fastpath_enabled(False)  # taken or not by which weights require a gradient
        return module


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """See `weights_digest`."""
    return weights_digest((n, t.dtype, tuple(t.shape), (tensor_bytes(t).data,)) for n, t in state.items())


_kept: dict[tuple[ModelSource, str], torch.nn.Module] = {}  # of one model, in one worker process


def kept_module(source: ModelSource, digest: str) -> torch.nn.Module:
    """The model's module, loaded when first asked for.

    Args:
        source: the model.
        digest: of the weights that it must have.

    Raises:
        IntegrityError: the model has other weights by now.
    """
    if (source, digest) not in _kept:
        _kept.clear()  # first: two might not fit
        stored = source.open()
        state = stored.state()
        found = state_digest(state)
        if found != digest:
            raise IntegrityError(stored.uri, f"weights of SHA-256 {found}", f"{digest}, as when the calibration began")
        _kept[source, digest] = source.build(stored, state)
    return _kept[source, digest]
