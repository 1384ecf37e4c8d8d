"""Image classifiers: top-1 accuracy of both models, its change, and how often they give the same answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nwc_core.errors import FormatError
from nwc_workflows.evaluation.images import Images, Picture
from nwc_workflows.evaluation.intervals import Bootstrap
from nwc_workflows.evaluation.task import Advance, Comparison, check_same_shape, output_tensor

if TYPE_CHECKING:
    import torch

_BATCH = 32


@dataclass(frozen=True)
class ClassifierTask:
    """Answers on fixed images.

    Attributes:
        images: with labels.
        prepare: pictures to the model's input, float32 [images, 3, height, width].
        batch: images at a time.
    """

    images: Images
    prepare: Callable[[list[Picture]], torch.Tensor]
    batch: int = _BATCH
    unit: str = "images"
    keeps_outputs: bool = True

    @property
    def count(self) -> int:
        return len(self.images.labels)

    @property
    def description(self) -> dict[str, Any]:
        return {"sha256": self.images.sha256, "images": self.count}

    def outputs(self, model: torch.nn.Module, advance: Advance) -> Iterator[torch.Tensor]:
        """Scores [images, classes], one batch at a time."""
        import torch

        for pictures in self.images.batches(self.batch):
            with torch.inference_mode():
                scores = output_tensor(model(self.prepare(pictures)), "logits")
            yield scores
            advance(len(pictures))

    def compare(self, original: Iterable[torch.Tensor], compressed: Iterable[torch.Tensor]) -> Comparison:
        """Figures from scores; accuracies and agreement are fractions."""
        import torch

        before, after = torch.cat(list(original)), torch.cat(list(compressed))
        check_same_shape(before, after)
        if before.ndim != 2 or int(self.images.labels.max()) >= before.shape[1]:
            found = f"label {int(self.images.labels.max())}"
            raise FormatError("the images", found, f"labels for the model's output {list(before.shape)}")
        answers, other = before.argmax(1).numpy(), after.argmax(1).numpy()
        boot = Bootstrap(
            {
                "before": answers == self.images.labels,
                "after": other == self.images.labels,
                "same": answers == other,
                "images": np.ones(len(answers)),
            }
        )
        return Comparison(
            {"accuracy": boot.interval(lambda s: s["before"] / s["images"])},
            {
                "accuracy": boot.interval(lambda s: s["after"] / s["images"]),
                "accuracy_change": boot.interval(lambda s: (s["after"] - s["before"]) / s["images"]),
                "agreement": boot.interval(lambda s: s["same"] / s["images"]),
            },
        )
