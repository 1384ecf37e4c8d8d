"""Methods to compress models side by side: the bytes that each stores, and what the model then puts out.

Every method codes the same checkpoint; what it gives back is loaded as the model's weights and compared with the original
on the same data by the tasks of `nwc evaluate`. One that fails is left out with its reason, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nwc_core.errors import FormatError, UsageError
from nwc_workflows.bench.models_judge import Judge
from nwc_workflows.bench.rivals.calibration import Calibration
from nwc_workflows.bench.rivals.rival import Quantised, Rival, Scope, Subject, versions
from nwc_workflows.bench.rivals.statistics import Found, Origin
from nwc_workflows.bench.rivals.subject import make_subject
from nwc_workflows.evaluate import Prepared
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.task import Figures

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
        seconds: that coding took. A run over the calibration data that methods share, `nwc calibrate` included, counts for
            the first of them.
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
        statistics: fingerprint of the calibration that was given ready-made; None if there was none.
        original: figures of the original by itself; empty where no method ran.
        points: by rising bits.
        left_out: the rest.
    """

    prepared: Prepared
    subject: Subject
    calibration: dict[str, Any] | None
    statistics: str | None
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
        statistics: what `nwc calibrate` makes of the model, or made; None if there is neither that nor data.
        scope: see `Subject`.
        rivals: every method at every setting.
    """

    prepared: Prepared
    calibration: Calibration | None
    statistics: Origin | None
    scope: Scope
    rivals: Sequence[Rival]

    def run(self, advance: Callable[[float], None] = lambda amount: None) -> ModelsResults:
        """Run everything.

        Args:
            advance: called with 1 for each of the rivals.

        Raises:
            FormatError, IntegrityError: the model is damaged, or its weights are not those that its config asks for.
        """
        with TemporaryDirectory(prefix="nwc-") as folder:
            return self._run(self._subject(Path(folder)), advance)

    def _run(self, subject: Subject, advance: Callable[[float], None]) -> ModelsResults:
        judge = Judge(self.prepared)
        points: list[Point] = []
        left_out: list[LeftOut] = []
        for rival in self.rivals:
            reason = rival.reason_missing() or self._lacking(rival)
            if reason is None:
                found = _measure(rival, subject, judge)
                reason = found if isinstance(found, str) else None
                points += [] if isinstance(found, str) else [found]
            if reason is not None:
                left_out.append(LeftOut(rival.name, rival.setting, reason))
            advance(1)
        described = self.calibration.task.description if self.calibration else None
        given = self.statistics.calibration.fingerprint if isinstance(self.statistics, Found) else None
        points.sort(key=lambda point: point.bits)
        # The folder of statistics goes with this run: nobody is to ask for them later.
        done = replace(subject, calibrate=None)
        return ModelsResults(self.prepared, done, described, given, judge.original, points, left_out)

    def _lacking(self, rival: Rival) -> str | None:
        """What a method needs that was not given."""
        if rival.needs == "data" and self.calibration is None:
            return "needs --calibration-data"
        if rival.needs == "statistics" and self.statistics is None:
            return "needs --calibration or --calibration-data"
        return None

    def _subject(self, folder: Path) -> Subject:
        prepared = self.prepared
        stored = prepared.original
        model = load_model(stored, stored, prepared.kind, prepared.factory)
        calibrate = None if self.statistics is None else partial(self.statistics, folder)
        return make_subject(stored, model, prepared.kind, self.scope, self.calibration, calibrate)


def _measure(rival: Rival, subject: Subject, judge: Judge) -> Point | str:
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
