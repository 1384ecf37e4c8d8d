"""What is asked of one compression besides its destination, and how that becomes an artifact: for a command, for a catalog.

Asking costs nothing; preparing opens the checkpoint, the calibration and the data, and reads headers; running does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nwc_core.codec import Codec
from nwc_core.errors import UsageError
from nwc_core.store import Store
from nwc_workflows.compress import CompressResult, compress, work
from nwc_workflows.plan import UNSIZED, CompressOptions, Plan, make_plan

if TYPE_CHECKING:
    from nwc_infra.capacity import Capacity
    from nwc_workflows.base import BaseArtifact
    from nwc_workflows.calibration.reading import Calibration
    from nwc_workflows.quality import Meter
    from nwc_workflows.recovery.recover import Recovered, Recovery
    from nwc_workflows.scratch import Show
    from nwc_workflows.trials import Trial


@dataclass(frozen=True)
class Request:
    """One compression, as it was asked for.

    Attributes:
        source: path or URI of a checkpoint.
        options: size, quality and preset.
        calibration: URI of one.
        base: URI of an artifact that the model is coded against.
        quality_data: path of the data that `quality` or `gate` is measured on.
        recover: minutes that tuning takes; None for none.
        recover_data: path of the data that it tunes on.
        recover_steps: at most.
        measuring: how the model is run on data: fields of `EvaluateOptions` besides data and subset.
        scratch: URI below which artifacts on trial lie.
    """

    source: str
    options: CompressOptions
    calibration: str | None = None
    base: str | None = None
    quality_data: str | None = None
    recover: float | None = None
    recover_data: str | None = None
    recover_steps: int | None = None
    measuring: Mapping[str, Any] = field(default_factory=dict)
    scratch: str | None = None

    def __post_init__(self) -> None:
        if not self.options.sized:
            this = next(name for name in UNSIZED if getattr(self.options, name)).replace("_", "-")
            for name in ("calibration", "quality_data", "recover"):
                if getattr(self, name) is not None:
                    option = f"--{name.replace('_', '-')}"
                    raise UsageError(f"{option}: found it with --{this}; wanted it without: no rate is chosen")
        target = self.options.quality or self.options.gate
        if target is None and self.quality_data is not None:
            raise UsageError("--quality-data: found it without --quality and --gate; wanted one of them, too")
        if target is not None and self.quality_data is None:
            raise UsageError(f"{target}: found no --quality-data; wanted data to measure it on")
        if self.recover is None and (self.recover_data is not None or self.recover_steps is not None):
            option = "--recover-data" if self.recover_data is not None else "--recover-steps"
            raise UsageError(f"{option}: found it without --recover; wanted that, too")
        if self.recover is not None and self.recover_data is None:
            raise UsageError("--recover: found no --recover-data; wanted data to tune on")

    @property
    def runs_model(self) -> bool:
        """Whether the model itself runs, in this process."""
        return self.quality_data is not None or self.recover is not None


@dataclass(frozen=True)
class Prepared:
    """A compression that is ready to run."""

    request: Request
    plan: Plan
    meter: Meter | None
    recovery: Recovery | None

    def run(
        self,
        destination: Store,
        *,
        show: Show,
        on_trial: Callable[[Trial], None] = lambda trial: None,
        address: str | None = None,
        workers: int | None = None,
        capacity: Capacity | None = None,
    ) -> Done:
        """Make the artifact.

        Args:
            destination: where it goes.
            show: shows the progress of each step.
            on_trial: told of each trial, if artifacts are made on trial.
            address, workers, capacity: as for `compress`.

        Raises:
            NwcError: see `compress`, `compress_to_quality` and `compress_and_recover`.
        """
        plan, where = self.plan, dict[str, Any](address=address, workers=workers, capacity=capacity)
        scratch = self.request.scratch
        if self.meter is not None:
            from nwc_workflows.trials import compress_to_quality

            found = compress_to_quality(
                plan,
                destination,
                self.meter,
                show=show,
                on_trial=on_trial,
                recovery=self.recovery,
                scratch=scratch,
                **where,
            )
            return Done(found.compressed, found.trials, found.recovered)
        if self.recovery is not None:
            from nwc_workflows.recovery.on_trial import compress_and_recover

            made, recovered = compress_and_recover(
                plan, destination, self.recovery, show=show, scratch=scratch, **where
            )
            return Done(made, (), recovered)
        with show(work(plan), "compress", "B") as progress:
            return Done(compress(plan, destination, on_progress=progress.advance, **where))


@dataclass(frozen=True)
class Done:
    """What came of it: the artifact, the trials that led to it, what recovery did to it."""

    compressed: CompressResult
    trials: tuple[Trial, ...] = ()
    recovered: Recovered | None = None


def prepare(request: Request, codec: Codec) -> Prepared:
    """Open all that a request names, and plan.

    Raises:
        NwcError: something cannot be opened or does not fit the rest, see `make_plan`, `open_meter`, `open_recovery`.
    """
    calibration = _open_calibration(request.calibration)
    meter = _open_meter(request, calibration)
    recovery = _open_recovery(request, meter)
    described = {**(meter.description if meter else {}), **(recovery.description if recovery else {})}
    plan = make_plan(request.source, codec, request.options, calibration, described, _open_base(request.base))
    return Prepared(request, plan if recovery is None else recovery.reserve(plan), meter, recovery)


def _open_base(uri: str | None) -> BaseArtifact | None:
    if uri is None:
        return None
    from nwc_workflows.base import open_base

    return open_base(uri)


def _open_calibration(uri: str | None) -> Calibration | None:
    if uri is None:
        return None
    from nwc_workflows.calibration.reading import Calibration

    return Calibration.open(uri)


def _open_meter(request: Request, calibration: Calibration | None) -> Meter | None:
    target = request.options.quality or request.options.gate
    if target is None or request.quality_data is None:
        return None
    from nwc_workflows.evaluate import EvaluateOptions
    from nwc_workflows.quality import open_meter

    options = EvaluateOptions(data=Path(request.quality_data), subset="evenly", **request.measuring)
    return open_meter(request.source, target, options, calibration)


def _open_recovery(request: Request, meter: Meter | None) -> Recovery | None:
    if request.recover is None or request.recover_data is None:
        return None
    from nwc_workflows.evaluate import EvaluateOptions
    from nwc_workflows.recovery.recover import open_recovery

    measured_on = meter.prepared.task.description["sha256"] if meter else None
    options = EvaluateOptions(data=Path(request.recover_data), subset="evenly", **request.measuring)
    return open_recovery(request.source, request.recover, options, steps=request.recover_steps, measured_on=measured_on)
