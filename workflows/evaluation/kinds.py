"""What a model is, judged by the class that its config.json names, and what it is run on."""

from __future__ import annotations

from typing import Any, Literal

from nwc_core.errors import UsageError
from nwc_workflows.evaluation.models import Kind
from nwc_workflows.evaluation.stored import StoredModel

Data = Literal["texts", "images"]


def kind_of(model: StoredModel, holds: Data) -> Kind:
    """The kind of a model; without a class, images are classified and texts embedded.

    Args:
        model: whose config.json.
        holds: what the data at hand is.
    """
    config = model.config or {}
    name = class_name(config)
    if config.get("is_encoder_decoder") is True or name.endswith("ForConditionalGeneration"):
        return "seq2seq"
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "language"
    return "classifier" if holds == "images" or name.endswith("ForImageClassification") else "encoder"


def class_name(config: dict[str, Any]) -> str:
    """The class of transformers that a config.json names; "" if none."""
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def check_data(kind: Kind, holds: Data, data: object, max_tokens: int | None, max_items: int | None) -> None:
    """Whether a model of this kind can be run on data of this kind, limited in this way.

    Raises:
        UsageError: it cannot.
    """
    if (kind == "classifier") != (holds == "images"):
        raise UsageError(f"--data: {data} holds {holds}; wanted what a model of the kind {kind!r} is run on")
    by_tokens = kind in ("language", "seq2seq")
    if (max_items if by_tokens else max_tokens) is not None:
        wrong, right = ("--max-items", "--max-tokens") if by_tokens else ("--max-tokens", "--max-items")
        raise UsageError(f"{wrong} says nothing about a model of the kind {kind!r}; wanted {right}")
