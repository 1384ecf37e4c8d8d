"""How two artifacts differ, from their manifests and indexes alone: no block is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.reader import Artifact
from nwc_core.encoded import LOSSY_CODERS, WITH_BASE
from nwc_workflows.inspect import TensorSummary, summarise

Status = Literal["same", "coded differently", "other weights", "other type", "only in A", "only in B", "differs"]


@dataclass(frozen=True)
class TensorPair:
    """One name, in both artifacts or in one.

    Attributes:
        name: of the tensor.
        status: "same" decodes to the same weights. "coded differently": the original weights are the same. "other
            weights": they are not. "other type": nor are dtype or shape. "differs": the bytes do, and the digests do
            not say why, since the tensor is cut into other blocks.
        a, b: what each holds; None if it does not.
    """

    name: str
    status: Status
    a: TensorSummary | None
    b: TensorSummary | None


@dataclass(frozen=True)
class Comparison:
    """Two artifacts, A and B.

    Attributes:
        tensors: in the order of A; behind them those that only B has.
        options: what determined the bytes and differs, by key: (in A, in B); None where one has no such key.
        same_codec: whether both carry the same.
        files: other files of the checkpoints that differ, by path: "changed", "only in A" or "only in B".
    """

    tensors: tuple[TensorPair, ...]
    options: dict[str, tuple[Any, Any]]
    same_codec: bool
    files: dict[str, str]

    def counts(self) -> dict[Status, int]:
        """How many tensors are what; the most frequent first."""
        found = [pair.status for pair in self.tensors]
        return {status: found.count(status) for status in sorted(set(found), key=lambda s: (-found.count(s), s))}


def compare(a: Artifact, b: Artifact) -> Comparison:
    """Compare two open artifacts."""
    same_codec = a.manifest.codec.sha256 == b.manifest.codec.sha256
    same_base = a.manifest.base is None or (
        b.manifest.base is not None and a.manifest.base.manifest_sha256 == b.manifest.base.manifest_sha256
    )
    in_a, in_b = ({t.name: t for t in summarise(artifact)} for artifact in (a, b))
    pairs = []
    for name in [*in_a, *(name for name in in_b if name not in in_a)]:
        if name not in in_b:
            status: Status = "only in A"
        elif name not in in_a:
            status = "only in B"
        else:
            status = _status(a.index.blocks(name), b.index.blocks(name), same_codec, same_base)
        pairs.append(TensorPair(name, status, in_a.get(name), in_b.get(name)))
    job_a, job_b = a.manifest.job, b.manifest.job
    options = {
        key: (job_a.get(key), job_b.get(key))
        for key in sorted({*job_a, *job_b})
        if (key in job_a, job_a.get(key)) != (key in job_b, job_b.get(key))
    }
    files_a, files_b = ({file.path: file.sha256 for file in artifact.manifest.files} for artifact in (a, b))
    files = {
        path: "only in B" if path not in files_a else "only in A" if path not in files_b else "changed"
        for path in sorted({*files_a, *files_b})
        if files_a.get(path) != files_b.get(path)
    }
    return Comparison(tuple(pairs), options, same_codec, files)


def _status(a: Sequence[BlockRow], b: Sequence[BlockRow], same_codec: bool, same_base: bool) -> Status:
    if (a[0].dtype, a[0].shape) != (b[0].dtype, b[0].shape):
        return "other type"
    # A coded stream means what its codec and its base make of it; the lossless coders need neither.
    by_codec, by_base = (any(row.coder in coders for row in a) for coders in (LOSSY_CODERS, WITH_BASE))
    if (
        [row.sha256 for row in a] == [row.sha256 for row in b]
        and (same_codec or not by_codec)
        and (same_base or not by_base)
    ):
        return "same"
    if [(row.start, row.stop) for row in a] != [(row.start, row.stop) for row in b]:
        return "differs"
    sources = [row.source_sha256 for row in a] == [row.source_sha256 for row in b]
    return "coded differently" if sources else "other weights"
