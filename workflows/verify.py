"""Verifying an artifact: every object, every digest, every block decoded; optionally against the original."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.manifest import CarriedFile, DerivedFile, Manifest
from nwc_core.artifact.objects import ObjectRef, check_object
from nwc_core.artifact.payload import check_payload
from nwc_core.artifact.reader import Artifact
from nwc_core.encoded import LOSSY_CODERS
from nwc_core.errors import FormatError, NwcError
from nwc_core.lossless import tensor_bytes
from nwc_core.near_lossless import Bound, mean_squared_difference
from nwc_core.openmp import work_alone
from nwc_workflows.original import block_text, original_block
from nwc_workflows.sources import Checkpoint, SourceTensor

if TYPE_CHECKING:
    import torch

_MSE_TOLERANCE = 1e-5  # relative; sums in another order differ in the last digits


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the object or tensor, and the error."""

    where: str
    error: NwcError


def verify(
    artifact: Artifact,
    source: Checkpoint | None = None,
    *,
    threads: int = 1,
    on_progress: Callable[[int], None] = lambda nbytes: None,
) -> list[Problem]:
    """Check an artifact that opened (its manifest and index are sound).

    Args:
        artifact: to check.
        source: the checkpoint that it was made from; then also that lossless tensors are equal bit for bit, that the
            recorded errors are true (of tuned tensors, too), and that no tensor is missing.
        threads: payloads are checked side by side.
        on_progress: called with the size of each checked object.

    Returns:
        Problems, in the order of the manifest; none if all is well. A damaged object does not hide another's damage.
    """
    manifest = artifact.manifest
    rows: dict[str, list[BlockRow]] = defaultdict(list)
    for row in artifact.index:
        rows[row.object].append(row)
    bound = bound_of(manifest)
    problems: list[Problem] = []
    others: list[ObjectRef | CarriedFile | DerivedFile] = [manifest.codec, *manifest.files, *manifest.derived]
    for item in others:
        try:
            where = f"{artifact.store.uri}/{item.object}"
            check_object(artifact.store.get(item.object), item.size, item.sha256, where)
            if item is manifest.codec:
                artifact.codec  # noqa: B018  parses it
        except NwcError as error:
            problems.append(Problem(item.object, error))
        on_progress(item.size)
    # Without the codec nothing can be decoded, and saying so once is enough; digests tell of other damage still.
    decodable = not problems or problems[0].where != manifest.codec.object
    tensors = {tensor.name: tensor for tensor in source.tensors} if source else {}
    if source is not None and not tensors.keys() & set(artifact.index.names()):
        stranger = f"no tensor that {artifact.store.uri} holds"
        problems.append(Problem(source.store.uri, FormatError("the source", stranger, "the artifact's own checkpoint")))
        source = None  # once is enough

    def check(ref: ObjectRef) -> list[Problem]:
        try:
            data = artifact.read_object(ref)
            check_payload(data, rows[ref.object], f"{artifact.store.uri}/{ref.object}")
        except NwcError as error:
            return [Problem(ref.object, error)]
        if not decodable:
            return []
        return [problem for row in rows[ref.object] if (problem := _check_block(artifact, row, data, compare))]

    def compare(row: BlockRow, decoded: torch.Tensor) -> None:
        if source is not None:
            _compare(row, decoded, source, tensors.get(row.tensor), bound)

    with ThreadPoolExecutor(threads, initializer=work_alone) as pool:
        for ref, found in zip(manifest.payloads, pool.map(check, manifest.payloads), strict=True):
            problems += found
            on_progress(ref.size)
    if source is not None:
        problems += _missing(artifact, source)
    return problems


def bound_of(manifest: Manifest) -> Bound | None:
    """What the artifact promises that no float is off by more than; None if nothing."""
    absolute, relative = (manifest.job.get(f"max_{kind}_error") for kind in ("absolute", "relative"))
    if isinstance(absolute, float):
        return Bound(absolute=absolute)
    return Bound(relative=relative) if isinstance(relative, float) else None


def _check_block(
    artifact: Artifact, row: BlockRow, payload: bytes, compare: Callable[[BlockRow, torch.Tensor], None]
) -> Problem | None:
    """Decode one block, from the payload's bytes at hand: they are the ones whose digest was just checked."""
    data = payload[row.offset : row.offset + row.length]
    try:
        check_object(data, row.length, row.sha256.hex(), block_text(row))
        compare(row, artifact.decode_bytes(row, data))
    except NwcError as error:
        return Problem(row.tensor, error)
    return None


def _compare(
    row: BlockRow, decoded: torch.Tensor, source: Checkpoint, tensor: SourceTensor | None, bound: Bound | None
) -> None:
    """A decoded block and the source's tensor of its name. Raises FormatError where they differ."""
    where = block_text(row)
    wanted = original_block(row, source, tensor).reshape(decoded.shape)
    if bound is not None and row.mse > 0 and not bound.holds(decoded, wanted):
        raise FormatError(where, f"a weight that is off by more than {bound}", "none, as was promised")
    if bound is not None and row.mse > 0 and row.coder not in LOSSY_CODERS:
        wanted_mse = mean_squared_difference(decoded, wanted)
        if not math.isclose(wanted_mse, row.mse, rel_tol=_MSE_TOLERANCE):
            raise FormatError(where, f"mean squared error {wanted_mse:.6g}", f"{row.mse:.6g}, as recorded")
    elif row.coder in LOSSY_CODERS or row.mse > 0:
        # As the encoder counts: in float32, also for float64.
        mse = float((decoded.float() - wanted.float()).double().square().mean())
        if not math.isclose(mse, row.mse, rel_tol=_MSE_TOLERANCE):
            raise FormatError(where, f"mean squared error {mse:.6g}", f"{row.mse:.6g}, as recorded")
    elif not np.array_equal(tensor_bytes(decoded), tensor_bytes(wanted)):
        raise FormatError(where, "other bits than the source's", "a lossless copy")


def _missing(artifact: Artifact, source: Checkpoint) -> list[Problem]:
    held = set(artifact.index.names())
    return [
        Problem(tensor.name, FormatError(f"tensor {tensor.name!r}", "it in the source only", "it in the artifact too"))
        for tensor in source.tensors
        if tensor.name not in held
    ]
