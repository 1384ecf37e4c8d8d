"""Evaluating: compressed models beside the original, on the same data, by what the models put out.

Everything is opened and checked before the first model runs. Two models are in memory at a time, or one where the
outputs on all data are small enough to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nwc_core.errors import FormatError, UsageError
from nwc_workflows.evaluation.classifiers import ClassifierTask
from nwc_workflows.evaluation.data_files import data_kind
from nwc_workflows.evaluation.encoders import encoder_task
from nwc_workflows.evaluation.images import open_images
from nwc_workflows.evaluation.kinds import check_data, class_name, kind_of
from nwc_workflows.evaluation.language import language_task
from nwc_workflows.evaluation.models import Kind, find_factory, load_model
from nwc_workflows.evaluation.preparation import preparation
from nwc_workflows.evaluation.results import Evaluation, ModelResult
from nwc_workflows.evaluation.stored import StoredModel, open_model
from nwc_workflows.evaluation.subset import Subset, choose
from nwc_workflows.evaluation.task import Advance, Figures, Task
from nwc_workflows.evaluation.texts import open_texts

if TYPE_CHECKING:
    import torch

    from nwc_workflows.evaluation.models import Factory


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate on, and how.

    Attributes:
        data: a text file, JSON lines, an npz file of images, or a folder of texts or of images by class.
        kind: of the models; "auto" judges by config.json and data.
        window: tokens that a language model sees at once, or at which an encoder's text is cut off.
        max_tokens: for language models, use so many only.
        max_items: for encoders and classifiers, use so many texts or images only.
        subset: which tokens or texts these are.
        batch: windows, texts or images at a time; None for what suits.
        factory: "module:function" that makes the module from the config.json as a dict; None for transformers.
    """

    data: Path
    kind: Literal["auto"] | Kind = "auto"
    window: int = 256
    max_tokens: int | None = None
    max_items: int | None = None
    subset: Subset = "first"
    batch: int | None = None
    factory: str | None = None


@dataclass(frozen=True)
class Prepared:
    """An evaluation that is ready to run: models opened, data read and cut."""

    kind: Kind
    task: Task
    factory: Factory | None
    original: StoredModel
    compressed: tuple[StoredModel, ...]

    @property
    def work(self) -> int:
        """Units of the data, once for each time that a model runs on all."""
        runs = 1 + len(self.compressed) if self.task.keeps_outputs else 2 * len(self.compressed)
        return runs * self.task.count

    def run(self, advance: Advance = lambda amount: None) -> Evaluation:
        """Run the models.

        Args:
            advance: called with units of `work` as they are done.

        Raises:
            FormatError, IntegrityError: a model is damaged, or its weights are not those that its config asks for.
        """
        original = self._load(self.original)
        kept: list[torch.Tensor] | None = None
        if self.task.keeps_outputs:
            kept = list(self.task.outputs(original, advance))
            del original  # its memory is the next model's
        results: list[ModelResult] = []
        alone: Figures = {}
        for stored in self.compressed:
            model = self._load(stored)
            before = self.task.outputs(original, advance) if kept is None else kept
            try:
                found = self.task.compare(before, self.task.outputs(model, advance))
            except FormatError as error:
                raise FormatError(f"{stored.uri}: {error.where}", error.found, error.wanted) from error
            del model
            alone = found.original
            results.append(ModelResult(stored, found.compressed))
        return Evaluation(self.kind, self.task.description, ModelResult(self.original, alone), tuple(results))

    def _load(self, stored: StoredModel) -> torch.nn.Module:
        settings = stored if stored.config is not None else self.original
        return load_model(stored, settings, self.kind, self.factory)


def prepare(original: str, compressed: Sequence[str], options: EvaluateOptions) -> Prepared:
    """Open everything.

    Args:
        original, compressed: paths or URIs of artifacts, checkpoint folders or safetensors files. One without a
            config.json takes the original's.

    Raises:
        UsageError: the options make no sense together, or for these models and data.
        NotFoundError: a model or the data is not there.
        FormatError: a model, its tokenizer or the data is damaged, or something else.
    """
    factory = find_factory(options.factory) if options.factory else None
    holds = data_kind(options.data)
    first = open_model(original)
    others = tuple(open_model(location) for location in compressed)
    kind = kind_of(first, holds) if options.kind == "auto" else options.kind
    if kind == "seq2seq":
        found = class_name(first.config or {}) or "an encoder with a decoder"
        wanted = "a decoder-only language model, a text encoder or an image classifier"
        raise UsageError(f"{first.uri}: found {found}; wanted {wanted}")
    check_data(kind, holds, options.data, options.max_tokens, options.max_items)
    return Prepared(kind, _make_task(kind, first, options), factory, first, others)


def _make_task(kind: Kind, original: StoredModel, options: EvaluateOptions) -> Task:
    if kind == "classifier":
        images = open_images(options.data, options.max_items, (original.config or {}).get("label2id"))
        ready = preparation(original, by_factory=options.factory is not None)
        return ClassifierTask(images, ready, options.batch) if options.batch else ClassifierTask(images, ready)
    texts = open_texts(options.data)
    if kind == "encoder":
        chosen = choose(texts.items(), options.max_items, options.subset)
        return encoder_task(original, chosen, texts.sha256, options.window, options.batch)
    return language_task(original, texts, options.window, options.max_tokens, options.subset, options.batch)
