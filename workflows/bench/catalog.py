"""What planning and committing a catalog costs this process: time, memory, requests. No weight is read or coded.

The models are simulated: their files have real headers and no data (what is read of it are zeros), in a store in memory that
answers at once. So the time is the driver's own; what a real store's answers take comes on top, many at a time.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from nwc_core.artifact.objects import ObjectRef, name_from_digest
from nwc_core.codec import Codec
from nwc_core.errors import NwcError
from nwc_core.safetensors_header import build_header
from nwc_infra.capacity import Capacity
from nwc_infra.cluster import cluster
from nwc_workflows.bench.memory_store import Below, MemoryStore
from nwc_workflows.blocks import Task
from nwc_workflows.catalog.members import find_models
from nwc_workflows.coding import CodedTask
from nwc_workflows.compress import compress
from nwc_workflows.overhead import stand_in
from nwc_workflows.parts import part_name, write_part
from nwc_workflows.plan import CompressOptions, Plan, make_plan
from nwc_workflows.resume import begin
from nwc_workflows.timeline import TaskSpan

_PER_LAYER = 9  # tensors: two norms, four projections of attention, three of the feed-forward part
_VOCABULARY = 32_000
_MODELS = "models/"


@dataclass(frozen=True)
class Phase:
    """One phase, of all models.

    Attributes:
        name: what was done.
        seconds: wall time.
        peak_nbytes: of this process, resident, up to the end of the phase.
        requests: by kind.
    """

    name: str
    seconds: float
    peak_nbytes: int
    requests: dict[str, int]


def tensor_shapes(count: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """So many tensors of a Llama of so many columns: embedding, layers, final norm, head."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, hidden)}
    wide = -(-8 * hidden // 3 // 256) * 256
    for layer in range(-(-count // _PER_LAYER)):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        shapes |= {f"{at}self_attn.{part}_proj.weight": (hidden, hidden) for part in "qkvo"}
        shapes |= {f"{at}mlp.{part}_proj.weight": (wide, hidden) for part in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, wide)
    last = {"model.norm.weight": (hidden,), "lm_head.weight": (_VOCABULARY, hidden)}
    names = list(shapes)[: max(1, count - len(last))]
    return {**{name: shapes[name] for name in names}, **dict(list(last.items())[: count - len(names)])}


def simulate(models: int, tensors: int, hidden: int) -> MemoryStore:
    """A store with so many models. They share their headers' bytes, which leaves the memory to what is measured."""
    shapes = tensor_shapes(tensors, hidden)
    header = build_header([(name, "BF16", shape) for name, shape in shapes.items()], {"format": "pt"})
    size = len(header) + sum(2 * _numel(shape) for shape in shapes.values())
    config = b'{"model_type": "llama"}'
    store = MemoryStore("memory://bench")
    for number in range(models):
        folder = f"{_MODELS}team-{number % 97:02d}/model-{number:05d}"
        store.put(f"{folder}/model.safetensors", header)
        store.sizes[f"{folder}/model.safetensors"] = size
        store.put(f"{folder}/config.json", config)
    store.requests.clear()
    return store


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def run(store: MemoryStore, codec: Codec, committed: int, advance: Callable[[int], None]) -> Iterator[Phase]:
    """Measure.

    Args:
        store: from `simulate`.
        codec: that plans are made for.
        committed: how many of the models are committed, too: as a run does it that finds all tasks done by an earlier one.
            For this a local Ray starts, though no task runs.
        advance: told of models that are done, all planned ones and the committed ones.
    """
    torch.set_num_threads(1)
    watch = _Watch(store)
    models = find_models(Below(store, _MODELS))
    yield watch.phase("find")
    for name, _, _ in models:
        _plan(store, name, codec)  # and let go of it, as a run does: only models that overlap have plans at one time
        advance(1)
    yield watch.phase("plan")
    if not committed:
        return
    with cluster(workers=1):
        watch.go_on()
        for name, _, _ in models[:committed]:
            _commit(_plan(store, name, codec), Below(store, f"results/{name}/"), watch)
            advance(1)
    yield watch.phase("commit")


def _commit(plan: Plan, destination: Below, watch: _Watch) -> None:
    """As a run does it whose tasks are all done; only that is watched."""
    watch.pause()
    _finish_tasks(plan, destination)
    watch.go_on()
    result = compress(plan, destination, capacity=Capacity(1, 1 << 40))
    watch.pause()
    if not result.created:
        raise NwcError(f"{destination.uri}: found it committed already; wanted to commit it")
    for info in list(destination.list()):
        destination.delete(info.key)
    watch.go_on()


def _plan(store: MemoryStore, name: str, codec: Codec) -> Plan:
    return make_plan(Below(store, f"{_MODELS}{name}/"), codec, CompressOptions(bits=4.0))


def _finish_tasks(plan: Plan, destination: Below) -> None:
    """Leave what workers would have: of every task a payload, of the right size only, and its part."""
    begun = begin(plan, destination)
    for task in plan.tasks:
        rates = tuple(plan.bits for block in task.blocks if block.lossy)
        value = _coded(task, plan.bits)
        destination.put(value.payload.object, b"")
        destination.store.sizes[destination.prefix + value.payload.object] = value.payload.size
        name = part_name(begun.run, "code", task, (rates, plan.options.preset))
        span = TaskSpan(
            key=task.key,
            node="bench",
            pid=1,
            started=time.time(),
            read_seconds=0.1,
            code_seconds=1.0,
            write_seconds=0.1,
            seconds=1.2,
            nbytes=task.nbytes,
            peak_memory=plan.memory(task),
        )
        write_part(destination, name, value, span)


def _coded(task: Task, bits: float) -> CodedTask:
    """What coding a task would have given, digests apart."""
    payload = hashlib.sha256(task.key.encode()).hexdigest()
    key, offset, rows = name_from_digest("payload", payload), 1000, []
    for block in task.blocks:
        length = round(block.numel * bits / 8) if block.lossy else block.nbytes
        rows.append(stand_in(block, key, offset, length))
        offset += length
    return CodedTask(ObjectRef(object=key, size=offset, sha256=payload), tuple(rows))


class _Watch:
    """Time, memory and requests of a phase, without what is done while it is paused."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._reset()

    def _reset(self) -> None:
        self._seconds, self._requests = 0.0, Counter[str]()
        self.go_on()

    def go_on(self) -> None:
        self._store.requests.clear()
        self._since = time.perf_counter()

    def pause(self) -> None:
        self._seconds += time.perf_counter() - self._since
        self._requests += self._store.requests

    def phase(self, name: str) -> Phase:
        """The one that ends now."""
        self.pause()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        phase = Phase(name, self._seconds, peak, dict(self._requests))
        self._reset()
        return phase
