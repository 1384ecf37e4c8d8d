"""What the three kinds of evaluation have in common: outputs batch by batch, and figures from pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nwc_core.errors import FormatError
from nwc_workflows.evaluation.intervals import Interval

if TYPE_CHECKING:
    import torch

Figures = Mapping[str, Interval | float]  # by key, in the order of a table
Advance = Callable[[float], None]


@dataclass(frozen=True)
class Comparison:
    """What a compressed model does beside the original: the original's own figures, and the compressed one's."""

    original: Figures
    compressed: Figures


class Task(Protocol):
    """One kind of evaluation, on data that is fixed.

    Attributes:
        unit: plural of what is counted and resampled: windows, texts, images.
        count: how many.
        keeps_outputs: the outputs on all data are small enough to be kept; else they are computed anew for each pair.
        description: of the data, for the record.
    """

    @property
    def unit(self) -> str: ...

    @property
    def count(self) -> int: ...

    @property
    def keeps_outputs(self) -> bool: ...

    @property
    def description(self) -> dict[str, Any]: ...

    def outputs(self, model: torch.nn.Module, advance: Advance) -> Iterator[torch.Tensor]:
        """The model's outputs, one tensor per batch, always in the same order; `advance` is told of units done."""
        ...

    def compare(self, original: Iterable[torch.Tensor], compressed: Iterable[torch.Tensor]) -> Comparison:
        """Figures from the outputs of both, consumed batch by batch.

        Raises:
            FormatError: the outputs of the two are not of one shape.
        """
        ...


def output_tensor(output: Any, attribute: str) -> torch.Tensor:
    """A model's output itself if it is a tensor, else the attribute that transformers gives it.

    Raises:
        FormatError: it has neither.
    """
    import torch

    found = output if isinstance(output, torch.Tensor) else getattr(output, attribute, None)
    if not isinstance(found, torch.Tensor):
        raise FormatError("the model's output", type(output).__name__, f"a tensor, or an object with .{attribute}")
    return found


def check_same_shape(original: torch.Tensor, compressed: torch.Tensor) -> None:
    """Raise FormatError unless two outputs can be compared."""
    if original.shape != compressed.shape:
        raise FormatError("output of the compressed model", f"{list(compressed.shape)}", f"{list(original.shape)}")
