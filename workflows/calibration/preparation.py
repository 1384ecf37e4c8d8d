"""Everything that a calibration is made from, opened and checked before any model runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nwc_core.errors import FormatError
from nwc_core.store import open_store
from nwc_core.strict_json import shown
from nwc_workflows.calibration.items import ImageItems, Items, TextItems, WindowItems
from nwc_workflows.calibration.source import ModelSource
from nwc_workflows.evaluation.classifiers import ClassifierTask
from nwc_workflows.evaluation.data_files import data_kind
from nwc_workflows.evaluation.encoders import encoder_task
from nwc_workflows.evaluation.images import open_images
from nwc_workflows.evaluation.kinds import check_data, kind_of
from nwc_workflows.evaluation.language import language_task
from nwc_workflows.evaluation.models import Kind, find_factory
from nwc_workflows.evaluation.preparation import preparation
from nwc_workflows.evaluation.stored import StoredModel
from nwc_workflows.evaluation.subset import choose
from nwc_workflows.evaluation.texts import open_texts


@dataclass(frozen=True)
class CalibrateOptions:
    """What to calibrate on, and how.

    Attributes:
        data: a text file, JSON lines, an npz file of images, or a folder of texts or of images by class.
        kind: of the model; "auto" judges by config.json and data.
        window: tokens that a language model sees at once, or at which an encoder's text is cut off.
        max_tokens: for language models, use so many only: windows that are spread evenly over the text.
        max_items: for encoders and classifiers, use so many texts, spread evenly, or images (see open_images) only.
        factory: "module:function" that makes the module from the config.json as a dict; None for transformers.
        input_only: no gradients.
        seed: of what is drawn at random.
    """

    data: Path
    kind: Literal["auto"] | Kind = "auto"
    window: int = 256
    max_tokens: int | None = None
    max_items: int | None = None
    factory: str | None = None
    input_only: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """A calibration that is ready to run."""

    source: ModelSource
    items: Items
    options: CalibrateOptions

    @property
    def described_options(self) -> dict[str, str | int | None]:
        """Options that determine the statistics, besides those that the description of the data tells of."""
        subset = {} if (self.options.max_tokens or self.options.max_items) is None else {"subset": "evenly"}
        return {"kind": self.source.kind, "factory": self.source.factory, "seed": self.options.seed, **subset}


def prepare(model: str, options: CalibrateOptions) -> Prepared:
    """Open a model and data.

    Args:
        model: path or URI of a checkpoint's folder, a safetensors file, or an artifact.

    Raises:
        UsageError: the options make no sense together, or for this model and data.
        NotFoundError: the model or the data is not there.
        FormatError: the model, its tokenizer or the data is damaged, or something else.
    """
    if options.factory:
        find_factory(options.factory)
    data = options.data.absolute()  # a worker's current directory is another
    holds = data_kind(data)
    location = open_store(model, "source").uri
    source = ModelSource(location, "language", options.factory, os.getcwd())  # noqa: PTH109
    stored = source.open()
    kind = kind_of(stored, holds) if options.kind == "auto" else options.kind
    check_data(kind, holds, options.data, options.max_tokens, options.max_items)
    return Prepared(replace(source, kind=kind), _make_items(kind, stored, data, options), options)


def _make_items(kind: Kind, stored: StoredModel, data: Path, options: CalibrateOptions) -> Items:
    if kind == "classifier":
        images = open_images(data, options.max_items, (stored.config or {}).get("label2id"))
        return ImageItems(ClassifierTask(images, preparation(stored, by_factory=options.factory is not None)))
    texts = open_texts(data)
    if kind == "encoder":
        chosen = choose(texts.items(), options.max_items, "evenly")
        return TextItems(encoder_task(stored, chosen, texts.sha256, options.window, batch=1))
    task = language_task(stored, texts, options.window, options.max_tokens, "evenly", batch=1)
    # Copies: the windows are views of one tensor, and each would take all of it along to the workers.
    task = replace(task, windows=tuple(window.clone() for window in task.windows))
    return WindowItems(task, _decoder_start(stored) if kind == "seq2seq" else None)


def _decoder_start(stored: StoredModel) -> int:
    value = (stored.config or {}).get("decoder_start_token_id")
    if type(value) is not int or value < 0:
        where = f"{stored.uri}: config.json: decoder_start_token_id"
        raise FormatError(where, shown(value), "the number of the token that the decoder starts with")
    return value
