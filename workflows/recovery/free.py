"""Which tensors recovery may tune: those that an artifact stores without loss anyway, so that other values cost no bits.

These are norms and biases mostly. Zstandard may pack the original's values better than tuned ones, though: what they may
grow by is set aside before the compression, so that the artifact keeps the size that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nwc_core.lossless import encode_lossless
from nwc_workflows.overhead import are_measured
from nwc_workflows.plan import Plan
from nwc_workflows.sources import SourceTensor, read_bytes, to_tensor

# Elements in all: each has a whole number in float32 that tells where it went, see `placing`.
MAX_ELEMENTS = 1 << 23
# By which a row of the index grows at most: its error is no longer 0, and the digest of norms that were all ones, which stood
# there many times, is one of its own.
_ROW_NBYTES = 48


def free_tensors(plan: Plan) -> list[SourceTensor]:
    """Tensors of floating-point numbers that a plan stores without loss of its own accord, in stored order."""
    coded = {block.tensor.name for block in plan.blocks if block.lossy}
    found, left = [], MAX_ELEMENTS
    for tensor in plan.checkpoint.tensors:
        free = tensor.name not in coded and not plan.options.is_lossless(tensor.name)
        if free and tensor.dtype.lossy and 0 < tensor.numel <= left:
            found.append(tensor)
            left -= tensor.numel
    return found


def with_room(plan: Plan, free: Sequence[SourceTensor]) -> Plan:
    """The plan with bytes set aside for what these tensors grow by. Raises UsageError if the size cannot be met then."""
    names = {tensor.name for tensor in free}
    grown = 0
    counted_raw = not are_measured(plan.blocks)
    for block in plan.blocks:
        if block.tensor.name in names:
            grown += _ROW_NBYTES
            if not counted_raw:
                data = read_bytes(plan.checkpoint, block.tensor, block.start, block.stop)
                grown += len(data) - len(encode_lossless(to_tensor(data, block.tensor.dtype, block.shape)).body)
    return replace(plan, fixed_nbytes=plan.fixed_nbytes + grown, reserved_nbytes=grown).sized()
