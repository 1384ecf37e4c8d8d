"""Methods to compress models side by side: the bytes that each stores, and what the model then puts out.

Every method codes the same checkpoint; what it gives back is loaded as the model's weights and compared with the original
on the same data by the tasks of `nwc evaluate`. One that fails is left out with its reason, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nwc_core.errors import FormatError, UsageError
from nwc_workflows.bench.rivals.calibration import Calibration
from nwc_workflows.bench.rivals.rival import Quantised, Rival, Scope, Subject, versions
from nwc_workflows.bench.rivals.subject import make_subject
from nwc_workflows.evaluate import EvaluateOptions, Prepared, prepare
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.stored import StoredModel
from nwc_workflows.evaluation.task import Figures

if TYPE_CHECKING:
    import torch

_KEPT_NBYTES = 1 << 30  # of the original's outputs on all the data; more are computed anew for each method
SEED = 0  # of torch's generator, before each method


@dataclass(frozen=True)
class Point:
    """A method at one setting.

    Attributes:
        rival: the method.
        nbytes: that it stores: everything that holds weights, or in the scope "linears" what the linear layers take.
        weights: elements of all tensors, or of the linear layers.
        coded_nbytes: of the tensors that it coded, alone.
        coded_weights: elements of these.
        coded: how many they are.
        seconds: that coding took. A run over the calibration data that methods share counts for the first of them.
        figures: of the model with its weights.
        versions: of the packages that did the work.
    """

    rival: Rival
    nbytes: int
    weights: int
    coded_nbytes: int
    coded_weights: int
    coded: int
    seconds: float
    figures: Figures
    versions: Mapping[str, str | None]

    @property
    def bits(self) -> float:
        """Bits per weight over everything in the scope."""
        return 8 * self.nbytes / self.weights

    @property
    def coded_bits(self) -> float:
        """Bits per weight over the coded tensors alone."""
        return 8 * self.coded_nbytes / self.coded_weights


@dataclass(frozen=True)
class LeftOut:
    """A method, or one setting of it, that could not run, and why."""

    name: str
    setting: str
    reason: str


@dataclass(frozen=True)
class ModelsResults:
    """All that was found.

    Attributes:
        prepared: the evaluation, whose `original` is the model.
        subject: what was coded.
        calibration: description of the calibration data; None if there was none.
        original: figures of the original by itself; empty where no method ran.
        points: by rising bits.
        left_out: the rest.
    """

    prepared: Prepared
    subject: Subject
    calibration: dict[str, Any] | None
    original: Figures
    points: Sequence[Point]
    left_out: Sequence[LeftOut]

    @property
    def original_nbytes(self) -> int:
        """Stored bytes of the original in the scope."""
        return self.prepared.original.nbytes if self.subject.scope == "whole" else _stored_nbytes(self.subject)


@dataclass(frozen=True)
class ModelsBench:
    """A benchmark that is ready to run.

    Attributes:
        prepared: the model and the evaluation.
        calibration: None if no data was given for it.
        scope: see `Subject`.
        rivals: every method at every setting.
    """

    prepared: Prepared
    calibration: Calibration | None
    scope: Scope
    rivals: Sequence[Rival]

    def run(self, advance: Callable[[float], None] = lambda amount: None) -> ModelsResults:
        """Run everything.

        Args:
            advance: called with 1 for each of the rivals.

        Raises:
            FormatError, IntegrityError: the model is damaged, or its weights are not those that its config asks for.
        """
        judge, subject = _Judge(self.prepared), self._subject()
        points: list[Point] = []
        left_out: list[LeftOut] = []
        for rival in self.rivals:
            reason = rival.reason_missing()
            if reason is None and rival.calibrated and self.calibration is None:
                reason = "needs --calibration-data"
            if reason is None:
                found = _measure(rival, subject, judge)
                reason = found if isinstance(found, str) else None
                points += [] if isinstance(found, str) else [found]
            if reason is not None:
                left_out.append(LeftOut(rival.name, rival.setting, reason))
            advance(1)
        described = self.calibration.task.description if self.calibration else None
        points.sort(key=lambda point: point.bits)
        return ModelsResults(self.prepared, subject, described, judge.original, points, left_out)

    def _subject(self) -> Subject:
        prepared = self.prepared
        stored = prepared.original
        model = load_model(stored, stored, prepared.kind, prepared.factory)
        return make_subject(stored, model, prepared.kind, self.scope, self.calibration)


def prepare_bench(
    model: str, options: EvaluateOptions, calibration_data: Path | None, scope: Scope, rivals: Sequence[Rival]
) -> ModelsBench:
    """Open the model and read the data.

    Args:
        model: path or URI of a checkpoint.
        options: the data to evaluate on, and how.
        calibration_data: of the same kind, for methods that calibrate.

    Raises:
        UsageError: the model is compressed already; the two data are one; see also `prepare`.
    """
    prepared = prepare(model, (), options)
    original = prepared.original
    if original.fingerprint is not None:
        raise UsageError(
            f"{original.uri}: found an artifact, compressed already; wanted the checkpoint that it was made of"
        )
    if calibration_data is None:
        return ModelsBench(prepared, None, scope, rivals)
    # Texts one at a time: no layer of an encoder sees padding, which would count as data.
    batch = 1 if prepared.kind == "encoder" else None
    other = prepare(model, (), replace(options, data=calibration_data, max_items=None, max_tokens=None, batch=batch))
    if other.task.description["sha256"] == prepared.task.description["sha256"]:
        raise UsageError(f"--calibration-data: found the data of --data, {options.data}; wanted other data")
    load = partial(load_model, original, original, prepared.kind, prepared.factory)
    return ModelsBench(prepared, Calibration(other.task, load), scope, rivals)


class _Judge:
    """Compares models with the original, whose outputs are kept if they are small enough."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._kept: list[torch.Tensor] | None = None
        self.original: Figures = {}

    def figures(self, candidate: StoredModel) -> Figures:
        """Raises FormatError: the candidate's weights are not those of the model."""
        task = self._prepared.task
        found = task.compare(self._before(), task.outputs(self._load(candidate), _ignore))
        self.original = found.original
        return found.compressed

    def _before(self) -> Iterator[torch.Tensor]:
        if self._kept is not None:
            yield from self._kept
            return
        task, nbytes = self._prepared.task, 0
        kept: list[torch.Tensor] = []
        for output in task.outputs(self._load(self._prepared.original), _ignore):
            nbytes += output.nbytes
            small = task.keeps_outputs or nbytes <= _KEPT_NBYTES
            kept = [*kept, output] if small else []
            yield output
        self._kept = kept or None

    def _load(self, stored: StoredModel) -> torch.nn.Module:
        return load_model(stored, self._prepared.original, self._prepared.kind, self._prepared.factory)


def _ignore(amount: float) -> None:
    """The benchmark counts whole methods."""


def _measure(rival: Rival, subject: Subject, judge: _Judge) -> Point | str:
    """A method's point, or why there is none."""
    import torch

    torch.manual_seed(SEED)
    started = time.monotonic()
    try:
        found = rival.quantise(subject)
        seconds = time.monotonic() - started
        _check(found, subject)
    except UsageError as error:
        return str(error)
    except Exception as error:  # another's package may fail in any way: hours of the others' figures must not be lost
        return " ".join(f"{type(error).__name__}: {error}".split())
    if not found.coded:
        return "it codes none of the model's tensors"
    whole = subject.scope == "whole"
    coded = {name: tensor for name, tensor in found.coded.items() if whole or name in subject.matrices}
    state = {**subject.state, **{name: tensor.weight for name, tensor in coded.items()}}
    figures = judge.figures(replace(subject.model, uri=f"{rival.name}, {rival.setting}", state=lambda: state))
    coded_nbytes = sum(tensor.nbytes for tensor in coded.values())
    return Point(
        rival,
        nbytes=found.nbytes if whole else coded_nbytes + _stored_nbytes(subject, coded),
        weights=subject.weights,
        coded_nbytes=coded_nbytes,
        coded_weights=sum(subject.state[name].numel() for name in coded),
        coded=len(coded),
        seconds=seconds,
        figures=figures,
        versions={**versions(rival.packages), **found.versions},
    )


def _stored_nbytes(subject: Subject, without: Collection[str] = ()) -> int:
    """Bytes of the tensors that may be coded, as they are stored."""
    return sum(subject.state[name].nbytes for name in subject.matrices if name not in without)


def _check(found: Quantised, subject: Subject) -> None:
    for name, coded in found.coded.items():
        stored = subject.state[name]
        if coded.weight.shape != stored.shape:
            raise FormatError(f"tensor {name!r}", f"shape {list(coded.weight.shape)}", f"{list(stored.shape)}")
