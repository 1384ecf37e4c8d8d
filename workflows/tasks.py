"""Running the tasks of a plan on Ray.

What earlier runs finished is taken as it is, and a task that kills its worker is narrowed down to the tensor that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from nwc_core.errors import NwcError, WorkerLostError
from nwc_core.store import Store
from nwc_infra.capacity import Capacity
from nwc_infra.scheduler import Job, Outcome, run_bounded
from nwc_workflows.allocate import Measured
from nwc_workflows.blocks import Task
from nwc_workflows.coding import CodedTask, code_blocks, code_task, measure_task
from nwc_workflows.metrics import observe
from nwc_workflows.parts import PartName, part_name, read_part, write_part
from nwc_workflows.plan import Plan
from nwc_workflows.resume import Begun
from nwc_workflows.timeline import TaskSpan, recorded

Kind = Literal["code", "measure", "probe"]
Result = CodedTask | tuple[Measured, ...]
Advance = Callable[[int], None]
_THREADS = 16  # for requests that wait for the store, not for this machine


def run_task(
    kind: Kind, task: Task, arguments: Sequence[Any], part: PartName | None, *, destination: Store | None, **shared: Any
) -> tuple[Result, TaskSpan]:
    """One task, in the worker; its result is kept behind `part`, if that is given.

    Args:
        kind: code and store; measure rate curves; or, to see whether that is possible, code and throw away.
        arguments: besides the task, see `code_task` and `measure_task`.
        destination: for payloads and parts.
        shared: what all tasks need, see there.
    """
    value: Result = ()
    with recorded(task.key if kind == "code" else f"{kind}: {task.key}", task.nbytes) as recording:
        if kind == "code":
            assert destination is not None
            value = code_task(task, *arguments, destination=destination, **shared)
        elif kind == "measure":
            shared.pop("options")
            value = measure_task(task, *arguments, **shared)
        else:
            code_blocks(task, *arguments, **shared)
    if part is not None:
        assert destination is not None
        write_part(destination, part, value, recording.span)
    observe(recording.span, value.payload.size if isinstance(value, CodedTask) else 0)
    return value, recording.span


@dataclass
class Tasks:
    """The tasks of a plan, and what became of those that ran.

    Attributes:
        plan: whose tasks.
        destination: for payloads and parts; None if nothing is stored.
        begun: says what earlier runs kept there; None if nothing is kept.
        workers, capacity: see `run_bounded`.
        spans: of all tasks that ran, or had run.
    """

    plan: Plan
    destination: Store | None
    begun: Begun | None
    workers: int
    capacity: Capacity | None = None
    spans: list[TaskSpan] = field(default_factory=list)

    def run(self, kind: Kind, arguments: Mapping[int, Sequence[Any]], on_progress: Advance) -> dict[int, Any]:
        """Results by the tasks' positions in the plan.

        Args:
            arguments: of the function, besides the task, by position.
            on_progress: told of source bytes that are done.

        Raises:
            NwcError: a task failed. If it killed its worker again and again, all others have ended before.
        """
        tasks, begun = self.plan.tasks, self.begun
        parts: dict[int, PartName] = {}
        if begun is not None:
            parts = {i: part_name(begun.run, kind, tasks[i], given) for i, given in arguments.items()}
        done = self._found(parts)
        for index in done:
            on_progress(tasks[index].nbytes)
        lost: list[tuple[int, WorkerLostError]] = []
        waiting = {index: given for index, given in arguments.items() if index not in done}
        for index, outcome in self._outcomes(kind, waiting, parts):
            if isinstance(outcome.error, WorkerLostError):
                lost.append((index, outcome.error))
            elif outcome.error is not None:
                raise outcome.error
            else:
                done[index], span = cast("tuple[Result, TaskSpan]", outcome.value)
                self.spans.append(span)
                on_progress(tasks[index].nbytes)
        if lost:
            raise self._named(kind, lost, arguments)
        return done

    def _found(self, parts: Mapping[int, PartName]) -> dict[int, Any]:
        """What earlier runs kept of these."""
        if self.begun is None or self.destination is None:
            return {}
        destination = self.destination
        there = {index: name for index, name in parts.items() if name.key in self.begun.parts}
        with ThreadPoolExecutor(_THREADS) as pool:
            read = dict(zip(there, pool.map(lambda name: read_part(destination, name), there.values()), strict=True))
        found = {index: part for index, part in read.items() if part is not None}
        self.spans += [replace(span, resumed=True) for _, span in found.values()]
        return {index: value for index, (value, _) in found.items()}

    def _outcomes(
        self, kind: Kind, arguments: Mapping[int, Sequence[Any]], parts: Mapping[int, PartName]
    ) -> Generator[tuple[int, Outcome[Any]]]:
        plan = self.plan
        by_key = {plan.tasks[index].key: index for index in arguments}
        jobs = [
            Job(key, (kind, plan.tasks[i], tuple(arguments[i]), parts.get(i)), plan.memory(plan.tasks[i]))
            for key, i in by_key.items()
        ]
        for outcome in self._run(jobs) if jobs else ():
            yield by_key[outcome.job.key], outcome

    def _run(self, jobs: list[Job]) -> Generator[Outcome[Any]]:
        plan = self.plan
        shared = {
            **{"checkpoint": plan.checkpoint, "codec": plan.codec.to_bytes(), "calibration": plan.calibration},
            **{"base": plan.base, "options": plan.options, "destination": self.destination},
        }
        outcomes = run_bounded(run_task, jobs, shared=shared, workers=self.workers, capacity=self.capacity)
        with closing(cast("Generator[Outcome[Any]]", outcomes)):  # after a failure nobody goes on writing
            yield from outcomes

    def _named(
        self, kind: Kind, lost: Sequence[tuple[int, WorkerLostError]], arguments: Mapping[int, Sequence[Any]]
    ) -> NwcError:
        """The error for tasks that killed their workers: every block of them is tried by itself, to find which does it."""
        jobs = []
        for index, _ in lost:
            task, given = self.plan.tasks[index], tuple(arguments[index])
            rates = iter(given[0]) if kind == "code" else None
            for block in task.blocks:
                alone = Task(f"tensor {block.tensor.name!r}, block {block.number}", (block,))
                if rates is not None:
                    given = ((next(rates),) if block.lossy else (), *given[1:])
                probe: Kind = "probe" if kind == "code" else kind
                jobs.append(Job(alone.key, (probe, alone, given, None), self.plan.memory(alone)))
        killing = [outcome.job.key for outcome in self._run(jobs) if isinstance(outcome.error, WorkerLostError)]
        if not killing:
            return lost[0][1]
        what = f"{'; '.join(sorted(killing))}: the worker process dies each time that this is coded"
        return NwcError(f"{what}; all other tasks are done, and kept: the same command goes on from there")
