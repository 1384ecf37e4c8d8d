"""What distribution costs: a compression on Ray beside plain processes that run the same tasks side by side.

All code the same synthetic checkpoint into a local folder, warm, in turns; medians over the rounds. The plain processes take
tasks from a queue, longest first, and do nothing else: no resuming, no limits, no commit.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from nwc_core.codec import Codec
from nwc_core.store import open_store
from nwc_infra.cluster import cluster
from nwc_infra.scheduler import ONE_THREAD
from nwc_workflows.blocks import Task
from nwc_workflows.coding import code_blocks, code_task
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, Plan, make_plan

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

ROUNDS = 3
_TENSOR_WEIGHTS, _COLUMNS = 1 << 21, 2048


@dataclass(frozen=True)
class WorkersBench:
    """Of one way to run the tasks.

    Attributes:
        name: of the way.
        workers: processes that code at once.
        seconds: wall time of each round.
        weights: coded in each.
        driver_share: CPU time of the driver over that of all workers, median; None for plain processes.
        peak_memory: bytes, the most that any worker process held; None for plain processes.
        planned_memory: bytes that Ray was asked to keep for the largest task; None for plain processes.
    """

    name: str
    workers: int
    seconds: tuple[float, ...]
    weights: int
    driver_share: float | None = None
    peak_memory: int | None = None
    planned_memory: int | None = None

    @property
    def weights_per_second(self) -> float:
        return self.weights / statistics.median(self.seconds)


def bench_workers(
    weights: int, tensors: int | None, workers: int, options: CompressOptions, advance: Callable[[int], None]
) -> list[WorkersBench]:
    """Plain processes and Ray's workers, one and several.

    Args:
        weights: of the synthetic checkpoint, bfloat16.
        tensors: of equal size that it consists of; of two million weights each if None.
        workers: several.
        options: of the compression.
        advance: told of each run that has ended, 4 * ROUNDS in all.
    """
    counts = sorted({1, workers})
    with tempfile.TemporaryDirectory(prefix="nwc-bench-") as folder, cluster(None, workers):
        source = _synthetic(Path(folder) / "model.safetensors", weights, tensors)
        plan = make_plan(source, Codec.load("default"), options)
        ways: dict[tuple[str, int], Callable[[int, str], _Run]] = {}
        for count in counts:
            ways["plain processes", count] = lambda n, place: _plain(plan, n, place)
            ways["Ray", count] = lambda n, place: _on_ray(plan, n, place)
        compress(plan, open_store(f"{folder}/warm"), workers=workers)
        found: dict[tuple[str, int], list[_Run]] = {way: [] for way in ways}
        for number in range(ROUNDS):
            for (name, count), run in ways.items():
                found[name, count].append(run(count, f"{folder}/{name}-{count}-{number}"))
                advance(1)
    planned = max(task.memory for task in plan.tasks)
    return [_summary(name, count, runs, plan.weights, planned) for (name, count), runs in found.items()]


def runs(workers: int) -> int:
    """How many times `bench_workers` compresses."""
    return 2 * len({1, workers}) * ROUNDS


@dataclass(frozen=True)
class _Run:
    seconds: float
    driver_share: float | None = None
    peak_memory: int | None = None


def _summary(name: str, count: int, runs: list[_Run], weights: int, planned: int) -> WorkersBench:
    shares = [run.driver_share for run in runs if run.driver_share is not None]
    peaks = [run.peak_memory for run in runs if run.peak_memory is not None]
    share = statistics.median(shares) if shares else None
    seconds = tuple(run.seconds for run in runs)
    return WorkersBench(name, count, seconds, weights, share, max(peaks, default=None), planned if peaks else None)


def _synthetic(path: Path, weights: int, tensors: int | None) -> Path:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    count = tensors or max(1, weights // _TENSOR_WEIGHTS)
    rows = max(1, weights // count // _COLUMNS)
    save_file({f"w.{i}": torch.randn(rows, _COLUMNS, dtype=torch.bfloat16).mul_(0.02) for i in range(count)}, path)
    return path


def _on_ray(plan: Plan, workers: int, place: str) -> _Run:
    cpu, started = time.process_time(), time.perf_counter()
    done = compress(plan, open_store(place), workers=workers)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    busy = sum(span.seconds for span in done.timeline)
    return _Run(seconds, cpu / busy, max(span.peak_memory for span in done.timeline))


def _plain(plan: Plan, workers: int, place: str) -> _Run:
    context = multiprocessing.get_context("spawn")
    tasks: Queue[int] = context.Queue()
    for index in sorted(range(len(plan.tasks)), key=lambda index: -plan.tasks[index].memory):
        tasks.put(index)
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ |= ONE_THREAD
    try:
        barrier = context.Barrier(workers + 1)
        ended: Queue[float] = context.Queue()
        processes = [context.Process(target=_code, args=(plan, place, tasks, barrier, ended)) for _ in range(workers)]
        for process in processes:
            process.start()
        barrier.wait()
        started = time.perf_counter()
        stopped = [ended.get() for _ in processes]
        for process in processes:
            process.join()
        return _Run(max(stopped) - started)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _code(plan: Plan, place: str, tasks: Queue[int], barrier: Barrier, ended: Queue[float]) -> None:
    """A plain process: warm, wait for the others, code what is left. The clock is the whole machine's."""
    destination, codec = open_store(place), plan.codec.to_bytes()
    given: dict[str, Any] = {"checkpoint": plan.checkpoint, "codec": codec, "calibration": None}
    _warm(plan, codec)
    barrier.wait()
    while True:
        stopped = time.perf_counter()
        try:
            task = plan.tasks[tasks.get(timeout=0.1)]
        except Empty:
            ended.put(stopped)
            return
        rates = [plan.bits] * sum(block.lossy for block in task.blocks)
        code_task(task, rates, plan.options.preset, destination=destination, **given)


def _warm(plan: Plan, codec: bytes) -> None:
    """Load every kernel that the tasks will need."""
    block = Task("warm", plan.tasks[0].blocks[:1])
    code_blocks(block, [plan.bits], plan.options.preset, checkpoint=plan.checkpoint, codec=codec, calibration=None)


def workers_table(found: list[WorkersBench]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Header and rows: throughput, and its ratio to plain processes of the same number."""
    plain = {way.workers: way for way in found if way.driver_share is None}
    header = (
        *("way", "processes", "M weights/s", "of plain processes", "driver's share of CPU"),
        *("peak of a worker, MB", "planned, MB"),
    )
    return header, [
        (
            way.name,
            way.workers,
            f"{way.weights_per_second / 1e6:.2f}",
            f"{way.weights_per_second / plain[way.workers].weights_per_second:.3f}",
            "" if way.driver_share is None else f"{100 * way.driver_share:.1f} %",
            *("" if nbytes is None else f"{nbytes / 1e6:,.0f}" for nbytes in (way.peak_memory, way.planned_memory)),
        )
        for way in found
    ]
