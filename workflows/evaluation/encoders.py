"""Text encoders: how far sentence embeddings move, and whether each text still has the same nearest neighbour.

The embedding of a text is the mean of the last hidden states over its tokens, normalised to length 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nwc_core.errors import FormatError
from nwc_workflows.evaluation.intervals import Bootstrap
from nwc_workflows.evaluation.language import load_tokenizer
from nwc_workflows.evaluation.models import quiet_transformers
from nwc_workflows.evaluation.stored import StoredModel
from nwc_workflows.evaluation.task import Advance, Comparison, check_same_shape, output_tensor

if TYPE_CHECKING:
    import torch

_BATCH = 32
_SIMILARITIES = 1 << 22  # of texts to all others at a time: 16 MB in float32


@dataclass(frozen=True)
class EncoderTask:
    """Embeddings of fixed texts.

    Attributes:
        inputs: what the tokenizer made of each batch: int64 [texts, tokens] by argument name of the model.
        count: texts in all.
        window: tokens at which a text is cut off.
        sha256: of the texts' files.
    """

    inputs: tuple[dict[str, torch.Tensor], ...]
    count: int
    window: int
    sha256: str
    unit: str = "texts"
    keeps_outputs: bool = True

    @property
    def description(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "texts": self.count, "window": self.window}

    def outputs(self, model: torch.nn.Module, advance: Advance) -> Iterator[torch.Tensor]:
        """Embeddings [texts, dimensions], one batch at a time."""
        import torch

        for inputs in self.inputs:
            with torch.inference_mode():
                embeddings = embed(model, inputs)
            yield embeddings
            advance(len(embeddings))

    def compare(self, original: Iterable[torch.Tensor], compressed: Iterable[torch.Tensor]) -> Comparison:
        """Figures from embeddings; relative error is |a - b|^2 / |a|^2 over all texts, in dB."""
        import torch

        before, after = torch.cat(list(original)), torch.cat(list(compressed))
        check_same_shape(before, after)
        cosine = (before.double() * after.double()).sum(1)
        boot = Bootstrap(
            {
                "error": (before.double() - after.double()).square().sum(1).numpy(),
                "energy": before.double().square().sum(1).numpy(),
                "cosine": cosine.numpy(),
                "same": (_nearest(before) == _nearest(after)).double().numpy(),
                "texts": np.ones(len(before)),
            }
        )
        with np.errstate(divide="ignore"):  # no error at all is minus infinity
            error_db = boot.interval(lambda s: 10 * np.log10(s["error"] / s["energy"]))
        return Comparison(
            {},
            {
                "error_db": error_db,
                "cosine": boot.interval(lambda s: s["cosine"] / s["texts"]),
                "least_cosine": float(cosine.min()),  # resampling says nothing about an extreme
                "retrieval_agreement": boot.interval(lambda s: s["same"] / s["texts"]),
            },
        )


def embed(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[texts, dimensions] the embeddings of a batch as the tokenizer made it."""
    import torch

    states = output_tensor(model(**inputs), "last_hidden_state")  # [texts, tokens, dimensions]
    mask = inputs["attention_mask"][..., None].to(states.dtype)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def _nearest(embeddings: torch.Tensor) -> torch.Tensor:
    """[texts] index of the other text with the greatest cosine, for embeddings [texts, dimensions] of length 1."""
    import torch

    rows = max(1, _SIMILARITIES // len(embeddings))
    found = []
    for start in range(0, len(embeddings), rows):
        similarity = embeddings[start : start + rows] @ embeddings.T
        similarity.diagonal(start).fill_(-torch.inf)
        found.append(similarity.argmax(1))
    return torch.cat(found)


def encoder_task(
    settings: StoredModel, texts: Sequence[str], sha256: str, window: int, batch: int | None
) -> EncoderTask:
    """Tokenise texts for an encoder.

    Args:
        settings: whose tokenizer.
        sha256: of the data that they are from.
        window: tokens at which a text is cut off, if the tokenizer's own limit is not lower.
        batch: texts at a time, 32 if None.

    Raises:
        FormatError: the tokenizer cannot be opened or cannot pad, or there are fewer than two texts.
    """
    if len(texts) < 2:
        raise FormatError("the texts", f"{len(texts)} different ones", "at least 2: neighbours are compared")
    tokenizer = load_tokenizer(settings)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        raise FormatError(f"{settings.uri}: tokenizer", "no token for padding", "one, as encoders have")
    window, size = min(window, tokenizer.model_max_length), batch or _BATCH
    inputs = []
    with quiet_transformers(settings.uri):
        for start in range(0, len(texts), size):
            part = list(texts[start : start + size])
            form = {"padding": True, "truncation": True, "return_attention_mask": True, "return_tensors": "pt"}
            inputs.append(dict(tokenizer(part, max_length=window, **form)))
    return EncoderTask(tuple(inputs), len(texts), window, sha256)
