"""Recovery: tensors that an artifact stores without loss are tuned to bring the model's output closer to the original's.

The weights that were coded stay as they are. Data that no step was made on decides whether anything was gained; if not, the
artifact stays the one that it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nwc_core.artifact.manifest import JobValue
from nwc_core.errors import UsageError
from nwc_core.store import Store
from nwc_workflows.compress import CompressResult, weight_nbytes
from nwc_workflows.evaluate import EvaluateOptions, Prepared, prepare
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.stored import StoredModel, open_model
from nwc_workflows.plan import Plan
from nwc_workflows.recovery.batches import TEXTS, Batches, batches_of
from nwc_workflows.recovery.free import free_tensors, with_room
from nwc_workflows.recovery.rewrite import RECOVERED, rewrite

if TYPE_CHECKING:
    import torch

_LEAST_SCALE = 0.1  # of a tensor's values, in units of those of all together: a bias may well be 0 now


@dataclass(frozen=True)
class Recovered:
    """What a recovery did.

    Attributes:
        tensors: those that were tuned, in stored order; none if nothing was gained.
        before, after: distance of the output from the original's on the data held out, per prediction; equal if nothing
            was gained.
        unit: of these.
        steps: that were tried.
    """

    tensors: tuple[str, ...]
    before: float
    after: float
    unit: str
    steps: int

    @property
    def gain(self) -> float:
        """Share of the distance that is gone."""
        return 1 - self.after / self.before if self.before > 0 else 0.0


@dataclass(frozen=True)
class Recovery:
    """A recovery that is ready to run.

    Attributes:
        minutes: of wall time for tuning; how far it gets in them depends on the machine.
        steps: at most; None for as many as there is time for.
        prepared: the original, and data.
        batches: the data.
    """

    minutes: float
    steps: int | None
    prepared: Prepared
    batches: Batches

    @property
    def description(self) -> Mapping[str, JobValue]:
        """As a manifest holds it."""
        described = {"kind": self.prepared.kind, **self.prepared.task.description}
        if self.steps is not None:
            described["steps"] = self.steps
        return {RECOVERED: float(self.minutes), **{f"recover_{key}": value for key, value in described.items()}}

    def reserve(self, plan: Plan) -> Plan:
        """The plan with room for what tuned tensors may take more.

        Raises:
            UsageError: there is no tensor to tune, or the size cannot be met.
        """
        free = free_tensors(plan)
        if not free:
            raise UsageError(
                "recover: found no tensor of floating-point numbers that is stored without loss; wanted one"
            )
        return with_room(plan, free)

    def run(
        self, plan: Plan, made: CompressResult, store: Store, advance: Callable[[float], None]
    ) -> tuple[CompressResult, Recovered]:
        """Tune an artifact in its place, which nobody else knows yet.

        Args:
            plan: that it was made by.
            made: the compression.
            store: where it is.
            advance: called with seconds of tuning that passed.

        Raises:
            FormatError: the model is damaged, or its weights are not those that its config asks for.
        """
        from nwc_workflows.recovery.objective import Objective
        from nwc_workflows.recovery.placing import place
        from nwc_workflows.recovery.tuning import tune

        stored = open_model(store.uri)
        state = stored.state()
        values = _Values([tensor.name for tensor in free_tensors(plan)], state)
        places = place(
            {name: tuple(tensor.shape) for name, tensor in state.items()}, values.names, lambda s: self._load(stored, s)
        )
        original = load_model(self.prepared.original, self.prepared.original, self.prepared.kind, self.prepared.factory)
        objective = Objective(original, self._load(stored, state), places, values.start, self.batches)
        tuned = tune(
            objective,
            values.start,
            values.scale(objective.reached),
            values.as_stored,
            seconds=60 * self.minutes,
            steps=self.steps,
            advance=advance,
        )
        changed = values.changed(tuned.values)
        # The module that a reader of the artifact will have: it decides, whatever the tuned one seemed to gain.
        after = objective.held_out_loss_of(self._load(stored, {**state, **changed})) if changed else tuned.before
        most = made.weight_nbytes + plan.reserved_nbytes
        manifest = rewrite(store, changed, lambda new: weight_nbytes(new) <= most) if after < tuned.before else None
        if manifest is None:
            return made, Recovered((), tuned.before, tuned.before, self.batches.unit, tuned.steps)
        result = replace(made, manifest=manifest, weight_nbytes=weight_nbytes(manifest))
        return result, Recovered(tuple(changed), tuned.before, after, self.batches.unit, tuned.steps)

    def _load(self, stored: StoredModel, state: dict[str, torch.Tensor]) -> torch.nn.Module:
        given = replace(stored, state=lambda: dict(state))
        settings = stored if stored.config is not None else self.prepared.original
        return load_model(given, settings, self.prepared.kind, self.prepared.factory)


def open_recovery(
    source: str, minutes: float, options: EvaluateOptions, *, steps: int | None = None, measured_on: str | None = None
) -> Recovery:
    """Prepare to recover.

    Args:
        source: path or URI of the checkpoint that is to be compressed.
        minutes: for tuning.
        options: data, and how to run the model on it.
        steps: at most.
        measured_on: SHA-256 of the data that the artifact's quality is measured on, which must be other data.

    Raises:
        UsageError: the data is what quality is measured on, or too little, or none for this kind of model.
        NwcError: model or data cannot be opened, see `nwc_workflows.evaluate.prepare`.
    """
    prepared = prepare(source, (), replace(options, batch=TEXTS))
    if measured_on is not None and prepared.task.description["sha256"] == measured_on:
        raise UsageError(
            f"{options.data}: found the data that quality is measured on; wanted other data, of the same kind, to tune on"
        )
    return Recovery(minutes, steps, prepared, batches_of(prepared.task))


class _Values:
    """The elements of some tensors, one after the other, in float32.

    Attributes:
        names: of the tensors; those with infinities or NaN, in float32, are left out.
        start: float32 [n], as they are stored.
    """

    def __init__(self, names: Sequence[str], state: Mapping[str, torch.Tensor]) -> None:
        import torch

        self.names = [name for name in names if bool(state[name].float().isfinite().all())]
        self._tensors = [state[name] for name in self.names]
        self.start = torch.cat([tensor.float().flatten() for tensor in self._tensors] or [torch.empty(0)])

    def scale(self, tuned: torch.Tensor) -> torch.Tensor:
        """float32 [n], the root mean square of each tensor, or a part of that of all where this is more.

        Args:
            tuned: bool [n], of which values there are gradients: others, such as a mask's -10^9, say nothing.
        """
        import torch

        least = _LEAST_SCALE * (self.start[tuned] if tuned.any() else self.start).square().mean().sqrt()
        parts = [part.square().mean().sqrt().clamp_min(least).expand(len(part)) for part in self._cut(self.start)]
        return torch.cat(parts or [torch.empty(0)])

    def as_stored(self, values: torch.Tensor) -> torch.Tensor:
        """Rounded to the tensors' types."""
        import torch

        pairs = zip(self._cut(values), self._tensors, strict=True)
        return torch.cat([part.to(tensor.dtype).float() for part, tensor in pairs])

    def changed(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tensors of which some value is another now; elements that are not keep their bits."""
        import torch

        found = {}
        parts = (self._cut(values), self._cut(self.start))
        for name, tensor, now, before in zip(self.names, self._tensors, *parts, strict=True):
            if not torch.equal(now, before):
                new = torch.where(now == before, tensor.flatten(), now.to(tensor.dtype))
                found[name] = new.reshape(tensor.shape)
        return found

    def _cut(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        import torch

        return torch.split(values, [tensor.numel() for tensor in self._tensors])
