"""Codecs on models of a kind that they never saw: of several families each is left out of the training once.

A codec is trained on all other families, and measured on the tensors of the one that was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from nwc_core.codec import Codec
from nwc_core.decorrelate import Parts
from nwc_core.errors import UsageError
from nwc_workflows.bench import trained
from nwc_workflows.bench.codec import encodings, run
from nwc_workflows.bench.contenders import CodecContender, Contender
from nwc_workflows.bench.families import Family
from nwc_workflows.bench.results import CodecBench, TensorResult
from nwc_workflows.bench.summary import Comparison, compare
from nwc_workflows.bench.trained import Workshop
from nwc_workflows.bench.variants import coder_of, contender
from nwc_workflows.progress import Progress

NAME = "left-out"  # of the codecs trained here
_WHOLE, _TRANSFORM, _NEITHER = "whole", "learned transform", "no transform"

Show = Callable[[int, str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class LeftOut:
    """A family, and what a codec that never saw it made of it.

    Attributes:
        family: left out.
        codec: trained on all others.
        tensors: coded by the codec and the references.
        convolutions: kernels of 3x3, coded with the codec's transform and without.
        lossless: "checkpoint/tensor" of those that someone coded without loss, and that therefore do not count.
        lossless_convolutions: the same, of kernels of 3x3.
    """

    family: Family
    codec: Codec
    tensors: Sequence[TensorResult]
    convolutions: Sequence[TensorResult]
    lossless: Sequence[str]
    lossless_convolutions: Sequence[str]


@dataclass(frozen=True)
class Savings:
    """Bits per weight saved at equal mean squared error, by family or over all of them.

    Attributes:
        references: against each reference, and against the better of them on each tensor.
        transform: on kernels of 3x3, by the learned transform alone: no bases.
        bases: on kernels of 3x3, by bases besides.
    """

    references: Sequence[Comparison]
    transform: Sequence[Comparison]
    bases: Sequence[Comparison]


@dataclass(frozen=True)
class LeaveOneOut:
    """What is measured, at what, and against what.

    Attributes:
        families: each left out once.
        presets: of the codecs trained here; the first for convolutions.
        references: contenders to compare with, one list for each codec.
        rates: in bits per weight, rising.
        max_weights: of a tensor that take part; None for all.
    """

    families: Sequence[Family]
    presets: Sequence[str]
    references: Sequence[Sequence[Contender]]
    rates: Sequence[float]
    max_weights: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a reference that tables could not tell from the codecs trained here."""
        if any(group[0].name == NAME for group in self.references):
            raise UsageError(
                f"--against: found a codec named {NAME!r}; wanted another name, to tell it apart in tables"
            )

    def train(self, family: Family, workshop: Workshop) -> Codec:
        """A codec that never saw a family."""
        others = [source for other in self.families if other is not family for source in other.sources]
        # The family left out is what the codec is tested on: nothing else need be held out.
        return workshop.codec(f"without {family.name}", others, replace(trained.CONFIG, held_out=0.0))

    def measure(self, family: Family, codec: Codec, show: Show) -> LeftOut:
        """Code a family's tensors."""
        bench, kernels = self._bench(codec), family.convolutions()
        of_kernels = self._kernel_bench(codec)
        work = encodings(bench, [], family.sources) + encodings(of_kernels, [], kernels)
        with show(work, f"measure {family.name}") as progress:
            found = run(bench, [], (0, 0), family.sources, progress.advance)
            convolutions = run(of_kernels, [], (0, 0), kernels, progress.advance)
        return LeftOut(family, codec, found.tensors, convolutions.tensors, found.lossless, convolutions.lossless)

    def savings(self, results: Sequence[LeftOut]) -> Savings:
        """Over the tensors of one family or of several."""
        any_codec = results[0].codec  # contenders have the same labels for all
        convolutions = [tensor for result in results for tensor in result.convolutions]
        of_kernels = self._kernel_bench(any_codec)
        alone = CodecBench(of_kernels.groups[1:], self.rates)
        return Savings(
            compare(self._bench(any_codec), [tensor for result in results for tensor in result.tensors]),
            compare(alone, convolutions),
            [c for c in compare(of_kernels, convolutions) if c.baseline == _TRANSFORM],
        )

    def _bench(self, codec: Codec) -> CodecBench:
        ours = [CodecContender(NAME, codec, preset) for preset in self.presets]
        return CodecBench([ours, *self.references], self.rates, self.max_weights)

    def _kernel_bench(self, codec: Codec) -> CodecBench:
        whole = coder_of(codec, self.presets[0])
        parts = {_WHOLE: Parts(), _TRANSFORM: Parts(bases=False), _NEITHER: Parts(bases=False, transforms=False)}
        groups = [[contender(name, replace(whole, parts=part))] for name, part in parts.items()]
        return CodecBench(groups, self.rates, self.max_weights)
