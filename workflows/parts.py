"""What each finished task left, kept beside its payload until the commit: a run that was stopped goes on from there.

A part is named by all that determines it: what the run makes (see `nwc_workflows.resume`), the function, the blocks, and
the function's other arguments, rates among them. Another run never finds it, and there is no order in which parts appear.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.objects import ObjectRef
from nwc_core.errors import NotFoundError
from nwc_core.rate_curve import RATES, RateCurve
from nwc_core.store import Store
from nwc_workflows.allocate import Lossless, Measured, Unreached
from nwc_workflows.blocks import Task
from nwc_workflows.coding import CodedTask
from nwc_workflows.timeline import TaskSpan

PART_PREFIX = "part-"
_NAME_DIGITS = 32


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, ser_json_bytes="base64", val_json_bytes="base64"
    )


class _Coded(_Record):
    payload: ObjectRef
    rows: tuple[BlockRow, ...]


class _Curve(_Record):
    """A measured block: one with a curve, one that is stored losslessly, or one that the calibration does not know."""

    numel: int
    log2_theta: list[float] | None = None
    alone: list[float] | None = None
    lossless_nbytes: int | None = None

    @classmethod
    def of(cls, block: Measured) -> _Curve:
        return cls(
            numel=block.numel,
            log2_theta=block.log2_theta.tolist() if isinstance(block, RateCurve) else None,
            alone=block.alone.tolist() if isinstance(block, RateCurve) and block.alone is not None else None,
            lossless_nbytes=block.nbytes if isinstance(block, Lossless) else None,
        )

    @property
    def block(self) -> Measured:
        if self.log2_theta is not None:
            return RateCurve(
                self.numel, np.array(self.log2_theta), None if self.alone is None else np.array(self.alone)
            )
        return Unreached(self.numel) if self.lossless_nbytes is None else Lossless(self.numel, self.lossless_nbytes)


class _Part(_Record):
    inputs: str
    span: TaskSpan
    coded: _Coded | None = None
    measured: tuple[_Curve, ...] | None = None


@dataclass(frozen=True)
class PartName:
    """Where the part of a task is, and what it must say to be that.

    Attributes:
        key: in the destination.
        inputs: SHA-256 (hex) of all that determines the task's result.
    """

    key: str
    inputs: str


def part_name(run: str, function: str, task: Task, arguments: Sequence[Any]) -> PartName:
    """The name of a task's part.

    Args:
        run: digest of what the whole run makes.
        function: that does the task.
        arguments: of the function, besides the task; JSON can hold them, floats exactly.
    """
    blocks = [[b.tensor.name, b.number, b.start, list(b.shape), b.lossy] for b in task.blocks]
    inputs = hashlib.sha256(json.dumps([run, function, blocks, list(arguments)]).encode()).hexdigest()
    return PartName(f"{PART_PREFIX}{inputs[:_NAME_DIGITS]}.json", inputs)


def write_part(store: Store, name: PartName, value: CodedTask | tuple[Measured, ...], span: TaskSpan) -> None:
    """Keep a task's result. What it names must be stored already."""
    if isinstance(value, CodedTask):
        part = _Part(inputs=name.inputs, span=span, coded=_Coded(payload=value.payload, rows=value.rows))
    else:
        part = _Part(inputs=name.inputs, span=span, measured=tuple(map(_Curve.of, value)))
    store.put(name.key, part.model_dump_json(exclude_defaults=True).encode())


def read_part(store: Store, name: PartName) -> tuple[CodedTask | tuple[Measured, ...], TaskSpan] | None:
    """A task's result that an earlier run kept, or None: there is none, or it or its payload is damaged."""
    try:
        part = _Part.model_validate_json(store.get(name.key))
        if part.inputs != name.inputs:
            return None
        if part.coded is None:
            curves = part.measured or ()
            kept = [theta for curve in curves for theta in (curve.log2_theta, curve.alone) if theta is not None]
            whole = all(len(theta) == RATES.size for theta in kept)
            return (tuple(curve.block for curve in curves), part.span) if whole else None
        if store.size(part.coded.payload.object) != part.coded.payload.size:
            return None
        return CodedTask(part.coded.payload, part.coded.rows), part.span
    except (NotFoundError, ValidationError):
        return None
