"""Whether a calibration is of the model that is to be compressed: its names, its shapes and, bit for bit, its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nwc_core.errors import FormatError
from nwc_core.strict_json import shown
from nwc_workflows.sources import Checkpoint, SourceTensor, read_bytes
from nwc_workflows.weights_digest import weights_digest

if TYPE_CHECKING:
    from nwc_workflows.calibration.reading import Calibration

_READ_WEIGHTS = 1 << 24  # at a time


def check_matches(calibration: Calibration, checkpoint: Checkpoint) -> None:
    """Reads all weights, if names and shapes agree.

    Raises:
        FormatError: it is another model's; names the first tensor that differs, where names and shapes do.
    """
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    for weight in calibration.record.weights:
        where = f"{calibration.store.uri}: tensor {shown(weight.name)}"
        if weight.name not in tensors:
            wanted = f"those of tensors in {checkpoint.store.uri}"
            raise FormatError(where, "statistics of a tensor that the checkpoint lacks", wanted)
        shape = list(tensors[weight.name].shape)
        if list(weight.shape) != shape:
            raise FormatError(where, f"shape {shown(weight.shape)}", f"{shown(shape)}, as in the checkpoint")
    digest = model_digest(checkpoint)
    if digest != calibration.record.model:
        found = f"statistics of a model with other weights (SHA-256 {calibration.record.model})"
        raise FormatError(calibration.store.uri, found, f"{digest}, as {checkpoint.store.uri} has")


def model_digest(checkpoint: Checkpoint) -> str:
    """See `weights_digest`; reads all weights, some at a time."""

    def pieces(tensor: SourceTensor) -> Iterator[bytes]:
        for start in range(0, tensor.numel, _READ_WEIGHTS):
            yield read_bytes(checkpoint, tensor, start, min(start + _READ_WEIGHTS, tensor.numel))

    return weights_digest((t.name, t.dtype.torch, t.shape, pieces(t)) for t in checkpoint.tensors)
