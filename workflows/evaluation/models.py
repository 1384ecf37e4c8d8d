"""Opening a stored model as a torch module, in float32 whatever it is stored in, ready to be run.

float32, because the rounding of 16-bit activations would blur the very differences that are to be measured. Every
weight must come from the stored tensors: one that is missing, left over or of another shape is an error.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from typing import TYPE_CHECKING, Any, Literal

from nwc_core.errors import FormatError, UsageError
from nwc_core.strict_json import shown
from nwc_workflows.evaluation.stored import StoredModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Factory = Callable[[dict[str, Any]], torch.nn.Module]

Kind = Literal["language", "seq2seq", "encoder", "classifier"]
_AUTO = {
    "language": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModel",
    "classifier": "AutoModelForImageClassification",
}
_LISTED = 5  # tensors that an error names
# transformers makes room for what config.json describes before it looks for the weights. A model has few weights that
# its checkpoint lacks; a config.json of far more is damaged, and believing it would fill the memory.
_MAX_EXCESS = 1 << 22


def load_model(stored: StoredModel, settings: StoredModel, kind: Kind, factory: Factory | None) -> torch.nn.Module:
    """The model with its weights, in evaluation mode.

    Args:
        stored: whose weights.
        settings: whose config.json and other small files.
        kind: which of transformers' model classes.
        factory: makes the module from the config (an empty one if there is none), instead of transformers.

    Raises:
        FormatError: weights are missing, left over or of another shape; or transformers cannot make the model.
    """
    import torch

    torch.manual_seed(0)  # parts that no figure depends on may start at random: no run shall differ from another
    model = _from_factory(stored, settings, factory) if factory else _from_transformers(stored, settings, kind)
    return model.float().eval().requires_grad_(False)


def find_factory(name: str, folder: str | None = None) -> Factory:
    """The function that "module:function" names.

    Args:
        folder: where the module may lie, besides where Python looks; None for the current directory.

    Raises:
        UsageError: there is none.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise UsageError(f"--factory: found {name!r}; wanted module:function")
    sys.path.insert(0, folder or os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        where = "it must lie here or in a folder that PYTHONPATH names"
        raise UsageError(f"--factory: cannot import {module_name!r}: {error}; {where}") from None
    finally:
        sys.path.pop(0)
    factory: Factory | None = getattr(module, function_name, None)
    if not callable(factory):
        raise UsageError(f"--factory: module {module_name!r} has no function {function_name!r}")
    return factory


@contextmanager
def quiet_transformers(where: str) -> Iterator[None]:
    """transformers without progress bars and reports of its own, and with errors that name the model."""
    try:
        from transformers.utils import logging
    except ImportError:
        raise UsageError("this needs transformers: pip install transformers, or give --factory") from None
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        found = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(where, f"what transformers cannot open ({found})", "a model that it knows") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _from_factory(stored: StoredModel, settings: StoredModel, factory: Factory) -> torch.nn.Module:
    import torch

    model = factory(settings.config or {})
    if not isinstance(model, torch.nn.Module):
        raise FormatError("what --factory made", type(model).__name__, "a torch.nn.Module")
    slots: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)
    state = stored.state()
    filled = {id(slots[name]) for name in state if name in slots}
    missing = [
        name
        for name, slot in slots.items()
        # A tied weight may be stored once; the batch counter plays no part once training is over, and old
        # checkpoints lack it.
        if name not in state and id(slot) not in filled and not name.endswith(".num_batches_tracked")
    ]
    shapes = [
        f"{name} {list(state[name].shape)} for {list(slot.shape)}"
        for name, slot in slots.items()
        if name in state and state[name].shape != slot.shape
    ]
    _check_keys(stored.uri, missing, [name for name in state if name not in slots], shapes)
    model.load_state_dict(state, strict=False)
    return model


def _from_transformers(stored: StoredModel, settings: StoredModel, kind: Kind) -> torch.nn.Module:
    import torch

    if settings.config is None:
        raise UsageError(f"{settings.uri}: no config.json; give the folder of the checkpoint, or --factory")
    with quiet_transformers(settings.uri), settings.folder() as folder:
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            empty: PreTrainedModel = getattr(transformers, _AUTO[kind]).from_config(config, trust_remote_code=False)
    described = sum(parameter.numel() for parameter in empty.parameters())
    if described > 2 * stored.weights + _MAX_EXCESS:
        raise FormatError(f"{settings.uri}: config.json", f"a model of {described} weights", f"{stored.weights}")
    state = stored.state()
    names = list(state)
    with quiet_transformers(stored.uri):
        load: Any = type(empty).from_pretrained  # whose type does not tell of the report
        model, report = load(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported all the same, with names, which the exception lacks
            output_loading_info=True,
        )
    prefix = f"{empty.base_model_prefix}."
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if kind == "encoder":
        # The last hidden states need no pooler, and no head of the task that the encoder was trained for.
        missing = [name for name in missing if not name.startswith("pooler.")]
        has_head = any(name.startswith(prefix) for name in names)
        unexpected = [name for name in unexpected if name.startswith(prefix) or not has_head]
    shapes = [f"{name} {list(found)} for {list(wanted)}" for name, found, wanted in sorted(report["mismatched_keys"])]
    _check_keys(stored.uri, missing, unexpected, shapes)
    loaded: torch.nn.Module = model
    return loaded


def _check_keys(where: str, missing: Iterable[str], unexpected: Iterable[str], shapes: Iterable[str]) -> None:
    complaints = [
        f"{what} {_some(names)}"
        for what, names in (
            ("no tensor", list(missing)),
            ("tensors that the model has not:", list(unexpected)),
            ("other shapes:", list(shapes)),
        )
        if names
    ]
    if complaints:
        raise FormatError(where, "; ".join(complaints), "exactly the weights of the model")


def _some(names: list[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"
