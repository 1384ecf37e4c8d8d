"""Language models: perplexity, KL divergence to the original and top-1 agreement, per predicted token.

The text is cut into windows that share nothing; in each, every token but the first is predicted from those before it.
Logits exist for one batch at a time, and their log-softmax in float64 for a slice of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nwc_core.errors import FormatError, UsageError
from nwc_workflows.evaluation.intervals import Bootstrap
from nwc_workflows.evaluation.models import quiet_transformers
from nwc_workflows.evaluation.stored import StoredModel
from nwc_workflows.evaluation.subset import Subset, choose
from nwc_workflows.evaluation.task import Advance, Comparison, check_same_shape, output_tensor
from nwc_workflows.evaluation.texts import Texts

if TYPE_CHECKING:
    import torch

_LOGITS = 1 << 26  # of a batch of each model: 256 MB in float32
_SLICE = 1 << 22  # logits that are in float64 at a time: a few copies of 32 MB
_MAX_BATCH = 16  # beyond, a CPU gains nothing


@dataclass(frozen=True)
class LanguageTask:
    """Perplexity and its like, on fixed windows.

    Attributes:
        windows: int64 [tokens] each, of one length but for a shorter last one, at least 2.
        window: that length.
        batch: windows at a time.
        sha256: of the text.
    """

    windows: tuple[torch.Tensor, ...]
    window: int
    batch: int
    sha256: str
    unit: str = "windows"
    keeps_outputs: bool = False

    @property
    def count(self) -> int:
        return len(self.windows)

    @property
    def description(self) -> dict[str, Any]:
        tokens = sum(len(window) for window in self.windows)
        return {"sha256": self.sha256, "windows": self.count, "window": self.window, "tokens": tokens}

    def outputs(self, model: torch.nn.Module, advance: Advance) -> Iterator[torch.Tensor]:
        """Logits [windows, tokens - 1, vocabulary] of the predictions, one batch at a time."""
        import torch

        for tokens in self._batches():
            with torch.inference_mode():
                logits = output_tensor(model(tokens), "logits")[:, :-1]
            yield logits
            advance(len(tokens))

    def compare(self, original: Iterable[torch.Tensor], compressed: Iterable[torch.Tensor]) -> Comparison:
        """Figures from logits. KL divergence of compressed from original, in nats per predicted token."""
        sums: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        for tokens, before, after in zip(self._batches(), original, compressed, strict=True):
            check_same_shape(before, after)
            sums += [
                _window_sums(window[1:], b, a)
                for window, b, a in zip(tokens, before, after, strict=True)  # one window: [tokens], 2 x [tokens-1, V]
            ]
        names = ("nll_before", "nll_after", "kl", "agreeing", "tokens")
        boot = Bootstrap(dict(zip(names, np.stack(sums).T, strict=True)))
        before_ppl = boot.interval(lambda s: np.exp(s["nll_before"] / s["tokens"]))
        return Comparison(
            {"perplexity": before_ppl},
            {
                "perplexity": boot.interval(lambda s: np.exp(s["nll_after"] / s["tokens"])),
                "perplexity_change": boot.interval(
                    lambda s: np.exp(s["nll_after"] / s["tokens"]) - np.exp(s["nll_before"] / s["tokens"])
                ),
                "kl": boot.interval(lambda s: s["kl"] / s["tokens"]),
                "top1_agreement": boot.interval(lambda s: s["agreeing"] / s["tokens"]),
            },
        )

    def _batches(self) -> Iterator[torch.Tensor]:
        """int64 [windows, tokens]; the shorter last window by itself."""
        import torch

        whole = [window for window in self.windows if len(window) == self.window]
        for i in range(0, len(whole), self.batch):
            yield torch.stack(whole[i : i + self.batch])
        if len(whole) < len(self.windows):
            yield self.windows[-1][None]


def _window_sums(targets: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> Any:
    """[5] sums over a window: two negative log-likelihoods, KL, predictions that agree, predictions."""
    import torch

    total = torch.zeros(5, dtype=torch.float64)
    rows = max(1, _SLICE // before.shape[-1])
    for t, b, a in zip(*(torch.split(part, rows) for part in (targets, before, after)), strict=True):
        log_p, log_q = b.double().log_softmax(-1), a.double().log_softmax(-1)
        # A token that the original rules out (log 0) adds nothing, whatever the compressed model thinks of it.
        kl = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum()
        agreeing = (b.argmax(-1) == a.argmax(-1)).sum()
        nll = [-log.gather(-1, t[:, None]).sum() for log in (log_p, log_q)]
        total += torch.stack([*nll, kl, agreeing.double(), torch.tensor(float(len(t)), dtype=torch.float64)])
    return total.numpy()


def language_task(
    settings: StoredModel, texts: Texts, window: int, max_tokens: int | None, subset: Subset, batch: int | None
) -> LanguageTask:
    """Cut a text into windows of the original's tokens, without special tokens.

    Args:
        settings: whose tokenizer.
        window: tokens of each, at least 2.
        max_tokens: use no more of them; whole windows, unless it is the first.
        subset: which.
        batch: windows at a time; None for as many as keep a batch's logits within 256 MB.

    Raises:
        FormatError: the tokenizer cannot be opened, does not suit the model, or finds fewer than two tokens.
        UsageError: the model cannot see so long a window.
    """
    import torch

    config = settings.config or {}
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(longest, int) and window > longest:
        raise UsageError(f"--window: found {window}; wanted at most {longest}, which is as far as the model sees")
    tokenizer = load_tokenizer(settings)
    with quiet_transformers(settings.uri):
        ids = tokenizer(texts.stream(), add_special_tokens=False)["input_ids"]
    if max_tokens is not None:
        window = min(window, max_tokens)
        ids = ids[:max_tokens] if subset == "first" else ids
    if len(ids) < 2:
        raise FormatError("the text", f"{len(ids)} tokens", "at least 2")
    vocabulary = config.get("vocab_size")
    if not isinstance(vocabulary, int):  # some models keep it elsewhere
        vocabulary = max(ids) + 1
    if max(ids) >= vocabulary:
        raise FormatError(settings.uri, f"a tokenizer that gives token {max(ids)}", f"tokens below {vocabulary}")
    windows = [part for part in torch.split(torch.tensor(ids), window) if len(part) > 1]
    window = len(windows[0])
    if max_tokens is not None:
        windows = list(choose(windows, max_tokens // window, "evenly")) if subset == "evenly" else windows
    fitting = max(1, min(_MAX_BATCH, _LOGITS // (window * vocabulary)))
    return LanguageTask(tuple(windows), window, batch or fitting, texts.sha256)


def load_tokenizer(settings: StoredModel) -> Any:
    """The tokenizer that belongs to a model.

    Raises:
        FormatError: there is none that transformers can open.
    """
    with quiet_transformers(settings.uri), settings.folder() as folder:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
