"""Loading a model of very many very small tensors: what each costs, whatever is in it.

Norms of 32 and matrices of 16 x 16, float32, in turns: coded without loss. The checkpoint is compressed on Ray
as any other, into a local folder, and loaded as `nwc_workflows.bench.reading` loads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from nwc_core.codec import Codec
from nwc_core.store import open_store
from nwc_workflows.bench.reading import Reading, bench_reading
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan


def bench_small_tensors(tensors: int, threads: int, advance: Callable[[int], None]) -> list[Reading]:
    """The original beside the artifact.

    Args:
        tensors: how many.
        threads: to decode on.
        advance: told of each round of each, as in `bench_reading`.
    """
    with tempfile.TemporaryDirectory(prefix="nwc-bench-") as folder:
        source, artifact = Path(folder) / "model", f"{folder}/model.nwc"
        source.mkdir()
        _write(source / "model.safetensors", tensors)
        plan = make_plan(source, Codec.load("default"), CompressOptions(lossless=True))
        compress(plan, open_store(artifact), workers=1)
        return bench_reading(str(source), artifact, None, threads, advance)


def _write(path: Path, tensors: int) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    norms = {f"layers.{i}.norm": 1 + 0.1 * torch.randn(32) for i in range((tensors + 1) // 2)}
    linears = {f"layers.{i}.weight": 0.02 * torch.randn(16, 16) for i in range(tensors // 2)}
    save_file(norms | linears, path)
