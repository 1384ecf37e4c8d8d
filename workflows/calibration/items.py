"""What a model is run on, one item at a time, and the number whose gradient says what an error in its weights does.

An item is a window of text, a text, or an image. Its number is a random direction times the output, and the directions
are such that the expected product of its gradient with itself is the second derivative of what an error costs:

- of the KL divergence in nats, with p the predicted probabilities: directions of covariance diag(p) - p p', which is the
  Fisher matrix at the logits. Labels drawn from p have that covariance too, but a label that is hardly ever drawn would
  seem not to matter, until it is drawn and seems to matter more than all others;
- of E|df|^2, with f the embedding of length 1: sqrt(2) times random signs.

One item at a time, because the gradients of several would come added up, and items must count each by itself: weights
are used at all positions of one item, and what an error does at one position adds to what it does at the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nwc_workflows.evaluation.classifiers import ClassifierTask
from nwc_workflows.evaluation.encoders import EncoderTask, embed
from nwc_workflows.evaluation.language import LanguageTask
from nwc_workflows.evaluation.task import output_tensor

if TYPE_CHECKING:
    import torch

Inputs = Any


class Items(Protocol):
    """Data that is fixed, cut into items. It can be pickled.

    Attributes:
        unit: plural of what is counted: windows, texts, images.
        count: how many.
        predictions: over which the losses of all items are averaged: tokens predicted, texts or images.
        description: of the data, for the record.
    """

    @property
    def unit(self) -> str: ...

    @property
    def count(self) -> int: ...

    @property
    def predictions(self) -> int: ...

    @property
    def description(self) -> dict[str, Any]: ...

    def inputs(self, start: int, stop: int) -> Iterator[Inputs]:
        """What the model is given for the items [start, stop), one after the other."""
        ...

    def forward(self, model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
        """The output that counts."""
        ...

    def score(self, output: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """The number to differentiate, drawn at random."""
        ...


def generator(seed: int, *places: object) -> torch.Generator:
    """Random numbers that depend on the seed and on what they are for, never on who draws them or when."""
    import torch

    digest = hashlib.sha256(repr((seed, *places)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class WindowItems:
    """Windows of text for a language model; for an encoder with a decoder, which writes down what it reads.

    Attributes:
        task: the windows.
        start: token that the decoder starts with; None for a language model, which predicts each token but the first.
    """

    task: LanguageTask
    start: int | None = None
    unit: str = "windows"

    @property
    def count(self) -> int:
        return self.task.count

    @property
    def predictions(self) -> int:
        return sum(len(window) - (self.start is None) for window in self.task.windows)

    @property
    def description(self) -> dict[str, Any]:
        return self.task.description

    def inputs(self, start: int, stop: int) -> Iterator[Inputs]:
        import torch

        for window in self.task.windows[start:stop]:
            if self.start is None:
                yield (window[None, :-1],)  # nothing follows the last token that could be predicted
            else:
                yield (window[None], torch.cat([torch.tensor([self.start]), window[:-1]])[None])

    def forward(self, model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
        """[tokens, vocabulary] logits."""
        names = ("input_ids", "decoder_input_ids")
        made = model(*inputs) if self.start is None else model(**dict(zip(names, inputs, strict=True)))
        return output_tensor(made, "logits")[0]

    def score(self, output: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        return _fisher_score(output, random)


class _OfOnePrediction:
    """What items have in common that count once each."""

    task: EncoderTask | ClassifierTask

    @property
    def count(self) -> int:
        return self.task.count

    @property
    def predictions(self) -> int:
        return self.task.count

    @property
    def description(self) -> dict[str, Any]:
        return self.task.description


@dataclass(frozen=True)
class TextItems(_OfOnePrediction):
    """Texts for an encoder."""

    task: EncoderTask
    unit: str = "texts"

    def inputs(self, start: int, stop: int) -> Iterator[Inputs]:
        yield from self.task.inputs[start:stop]

    def forward(self, model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
        """[1, dimensions]"""
        return embed(model, inputs)

    def score(self, output: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        return 2**0.5 * (_signs(output, random) * output).sum()


@dataclass(frozen=True)
class ImageItems(_OfOnePrediction):
    """Images for a classifier. Workers read them from where they lie."""

    task: ClassifierTask
    unit: str = "images"

    def inputs(self, start: int, stop: int) -> Iterator[Inputs]:
        for _, pictures in zip(range(start, stop), self.task.images.batches(1, start), strict=False):
            yield self.task.prepare(pictures)

    def forward(self, model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
        """[1, classes] logits."""
        return output_tensor(model(inputs), "logits")

    def score(self, output: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        return _fisher_score(output, random)


def _fisher_score(logits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Logits [predictions, labels] times directions of covariance diag(p) - p p', independent for each prediction."""
    p = logits.detach().softmax(-1)
    spread = p.sqrt() * _signs(p, random)
    return ((spread - p * spread.sum(-1, keepdim=True)) * logits).sum()


def _signs(like: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    import torch

    return torch.randint(0, 2, like.shape, generator=random, dtype=torch.int8).to(like.dtype).mul_(2).sub_(1)
