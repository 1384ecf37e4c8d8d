"""Running the rate-distortion benchmark: every contender at every rate, on sources and on the tensors of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nwc_core.codec import MIN_LOSSY_WEIGHTS, lossy_candidate
from nwc_core.matrices import Layout, default_layout
from nwc_core.reference.recipe import CHUNK
from nwc_workflows.bench.contenders import Contender
from nwc_workflows.bench.results import CodecBench, CodecResults, Points, SourceResult, TensorResult
from nwc_workflows.bench.sources import SOURCES, Source
from nwc_workflows.sources import SourceTensor, read_bytes, to_tensor
from nwc_workflows.train import TrainingSource

SEED = 0  # of the sources' samples and of the choice of rows

OnProgress = Callable[[float], None]


def run(
    bench: CodecBench,
    sources: Sequence[Source],
    size: tuple[int, int],
    checkpoints: Sequence[TrainingSource],
    on_progress: OnProgress,
) -> CodecResults:
    """Measure everything, one encoding after the other on one thread.

    Args:
        bench: contenders and rates.
        sources: `size` [rows, columns] samples of each are coded.
        checkpoints: every tensor of theirs that the lossy coder takes is coded.
        on_progress: gets encodings as they are done or turn out not to be needed, `encodings` in all.
    """
    torch.set_num_threads(1)
    for contender in bench.contenders:  # kernels are compiled before anything is timed
        setting = contender.settings(bench.rates)[0]
        contender.measure(SOURCES["gaussian"].sample((64, 64), SEED), default_layout((64, 64)), setting)
    on_sources = [_code_source(bench, source, size, on_progress) for source in sources]
    tensors: list[TensorResult] = []
    lossless: list[str] = []
    for checkpoint in checkpoints:
        for tensor in lossy_tensors(checkpoint):
            found = _code_tensor(bench, checkpoint, tensor, on_progress)
            if found:
                tensors.append(found)
            else:
                lossless.append(f"{checkpoint.name}/{tensor.name}")
    return CodecResults(bench, on_sources, tensors, checkpoints, lossless)


def encodings(bench: CodecBench, sources: Sequence[Source], checkpoints: Sequence[TrainingSource]) -> int:
    """How many encodings `run` makes, or finds that it need not make."""
    tensors = sum(len(lossy_tensors(checkpoint)) for checkpoint in checkpoints)
    of_a_source = sum(len(contender.settings(bench.rates)) for contender in bench.contenders)
    return len(sources) * of_a_source + tensors * len(_tensor_work(bench))


def _tensor_work(bench: CodecBench) -> list[tuple[Contender, float]]:
    """The encodings of a tensor, each by whom and at what."""
    return [(contender, setting) for contender in bench.contenders for setting in bench.tensor_settings(contender)]


def lossy_tensors(checkpoint: TrainingSource) -> list[SourceTensor]:
    """The tensors that the lossy coder takes."""
    return [tensor for tensor in checkpoint.checkpoint.tensors if lossy_candidate(tensor.dtype.name, tensor.shape)]


def sample_rows(tensor: torch.Tensor, layout: Layout, max_weights: int) -> torch.Tensor:
    """A fixed random sample of whole rows, of every matrix that the layout sees: about `max_weights` weights in all."""
    axis = layout.order[layout.batch]
    size = tensor.shape[axis]
    inner = tensor.numel() // size
    count = max(2, max_weights // inner, -(-MIN_LOSSY_WEIGHTS // inner))
    if (even := count - count % CHUNK) * inner >= MIN_LOSSY_WEIGHTS:
        count = even  # the published codec would fill up its last chunk of rows, and pay for what is not there
    if count >= size:
        return tensor
    rows = torch.randperm(size, generator=torch.Generator().manual_seed(SEED))[:count]
    return tensor.index_select(axis, rows.sort().values)


def _code_source(bench: CodecBench, source: Source, size: tuple[int, int], on_progress: OnProgress) -> SourceResult:
    weight, layout = source.sample(size, SEED), default_layout(size)
    points: Points = {contender.label: [] for contender in bench.contenders}
    for contender in bench.contenders:
        for setting in contender.settings(bench.rates):
            measured = contender.measure(weight, layout, setting)
            if measured is not None:
                points[contender.label].append(measured)
            on_progress(1)
    return SourceResult(source, size, points)


def _code_tensor(
    bench: CodecBench, checkpoint: TrainingSource, tensor: SourceTensor, on_progress: OnProgress
) -> TensorResult | None:
    """None if a contender codes it without loss at any of the rates: all are compared on the same tensors."""
    layout = default_layout(tensor.shape)
    weight = to_tensor(read_bytes(checkpoint.checkpoint, tensor), tensor.dtype, tensor.shape)
    if bench.max_weights:
        weight = sample_rows(weight, layout, bench.max_weights)
    variance = float(weight.double().var(correction=0))
    work = _tensor_work(bench)
    if not (weight.isfinite().all() and variance > 0):
        on_progress(len(work))
        return None
    points: Points = {contender.label: [] for contender in bench.contenders}
    for done, (contender, setting) in enumerate(work):
        measured = contender.measure(weight, layout, setting)
        if measured is None or measured.mse == 0:
            on_progress(len(work) - done)  # those that need not be made count as done: the bar reaches its end
            return None
        points[contender.label].append(measured)
        on_progress(1)
    name, dtype, shape = tensor.name, tensor.dtype.name, tensor.shape
    return TensorResult(checkpoint.name, name, dtype, shape, weight.numel(), variance, points)
