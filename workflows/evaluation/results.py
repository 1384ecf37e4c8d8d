"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nwc_workflows.evaluation.models import Kind
from nwc_workflows.evaluation.stored import StoredModel
from nwc_workflows.evaluation.task import Figures


@dataclass(frozen=True)
class ModelResult:
    """What was found about one model."""

    model: StoredModel
    figures: Figures


@dataclass(frozen=True)
class Evaluation:
    """What was found about all.

    Attributes:
        kind: of the models.
        data: description of the data, digest included.
        original: figures of the original by itself.
        compressed: in the order given.
    """

    kind: Kind
    data: dict[str, Any]
    original: ModelResult
    compressed: tuple[ModelResult, ...]
