"""The data of a recovery, batch by batch, and how far two models' outputs are apart on it.

The distance is the metric that the model is judged by: KL divergence of predictions for language models and classifiers,
squared error of the embedding for encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from nwc_core.errors import UsageError
from nwc_workflows.evaluation.classifiers import ClassifierTask
from nwc_workflows.evaluation.encoders import EncoderTask, embed
from nwc_workflows.evaluation.language import LanguageTask
from nwc_workflows.evaluation.task import Task, output_tensor

if TYPE_CHECKING:
    import torch

Call = Callable[..., Any]  # a module, or one with other parameters
# Items of a batch: small, since many rough steps beat few exact ones where so little is tuned.
_WINDOWS, TEXTS, _IMAGES = 2, 8, 32
_LEAST = 10  # batches wanted, however few the items


class Batches(Protocol):
    """Data in batches, numbered from 0.

    Attributes:
        count: how many.
        unit: of the distance.
    """

    @property
    def count(self) -> int: ...

    @property
    def unit(self) -> str: ...

    def output(self, call: Call, number: int) -> torch.Tensor:
        """[predictions, values] what a model puts out for a batch."""
        ...

    def distance(self, original: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Between two outputs, added up over predictions."""
        ...


def batches_of(task: Task) -> Batches:
    """The data of a task of `nwc evaluate`. Raises UsageError if it makes fewer than two batches."""
    made: Batches
    if isinstance(task, LanguageTask):
        made = _Windows(task, _size(_WINDOWS, task.count))
    elif isinstance(task, ClassifierTask):
        made = _Images(task, _size(_IMAGES, task.count))
    else:
        assert isinstance(task, EncoderTask)
        made = _Texts(task)
    if made.count < 2:
        raise UsageError(
            f"the data for recovery: found {task.count} {task.unit}; wanted more: a part is kept to see what was gained"
        )
    return made


def _size(most: int, items: int) -> int:
    return max(1, min(most, items // _LEAST))


class _Predictions:
    unit = "KL divergence, nats per prediction"

    def distance(self, original: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        import torch

        log_p, log_q = original.log_softmax(-1), other.log_softmax(-1)
        # What the original rules out (log 0) adds nothing.
        return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum()


@dataclass(frozen=True)
class _Windows(_Predictions):
    task: LanguageTask
    size: int

    @property
    def count(self) -> int:
        return -(-self._whole // self.size) if self._whole > 1 else 0

    @property
    def _whole(self) -> int:
        """Windows of full length, all but perhaps the last."""
        return sum(len(window) == self.task.window for window in self.task.windows)

    def output(self, call: Call, number: int) -> torch.Tensor:
        import torch

        start = number * self.size
        tokens = torch.stack(self.task.windows[start : min(start + self.size, self._whole)])
        return output_tensor(call(tokens[:, :-1]), "logits").flatten(0, -2)


@dataclass(frozen=True)
class _Images(_Predictions):
    task: ClassifierTask
    size: int

    @property
    def count(self) -> int:
        return -(-self.task.count // self.size)

    def output(self, call: Call, number: int) -> torch.Tensor:
        pictures = next(self.task.images.batches(self.size, number * self.size))
        return output_tensor(call(self.task.prepare(pictures)), "logits")


@dataclass(frozen=True)
class _Texts:
    task: EncoderTask
    unit: str = "squared error of embeddings of length 1"

    @property
    def count(self) -> int:
        return len(self.task.inputs)

    def output(self, call: Call, number: int) -> torch.Tensor:
        return embed(cast("torch.nn.Module", call), self.task.inputs[number])

    def distance(self, original: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (original - other).square().sum()
