"""Verifying an artifact: every object, every digest, every block decoded; optionally against the original."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from nwc_workflows.sources import Checkpoint, read_bytes, to_tensor

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.objects import ObjectRef, check_object
from nwc_core.artifact.payload import check_payload
from nwc_core.artifact.reader import Artifact
from nwc_core.dtypes import DTYPES
from nwc_core.errors import FormatError, NwcError
from nwc_core.lossless import tensor_bytes

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
            recorded errors are true, and that no tensor is missing.
        threads: payloads are checked side by side.
        on_progress: called with the size of each checked object.

    Returns:
        Problems, in the order of the manifest; none if all is well. A damaged object does not hide another's damage.
    """
    rows: dict[str, list[BlockRow]] = defaultdict(list)
    for row in artifact.index:
        rows[row.object].append(row)
    problems: list[Problem] = []
    others: list[tuple[str, int, str]] = [
        (item.object, item.size, item.sha256)
        for item in (artifact.manifest.codec, *artifact.manifest.files, *artifact.manifest.derived)
    ]
    for key, size, sha256 in others:
        try:
            check_object(artifact.store.get(key), size, sha256, f"{artifact.store.uri}/{key}")
        except NwcError as error:
            problems.append(Problem(key, error))
        on_progress(size)
    if problems and problems[0].where == artifact.manifest.codec.object:
        return problems  # nothing can be decoded without it

    def check(ref: ObjectRef) -> list[Problem]:
        try:
            return _check_payload(artifact, ref, rows[ref.object], source)
        except NwcError as error:
            return [Problem(ref.object, error)]

    with ThreadPoolExecutor(threads) as pool:
        for ref, found in zip(artifact.manifest.payloads, pool.map(check, artifact.manifest.payloads), strict=True):
            problems += found
            on_progress(ref.size)
    if source is not None:
        problems += _missing(artifact, source)
    return problems


def _check_payload(
    artifact: Artifact, ref: ObjectRef, rows: list[BlockRow], source: Checkpoint | None
) -> list[Problem]:
    data = artifact.read_object(ref)
    check_payload(data, rows, f"{artifact.store.uri}/{ref.object}")
    problems = []
    for row in rows:
        try:
            # From the bytes at hand: they are the ones whose digest was just checked.
            block = data[row.offset : row.offset + row.length]
            _check_block(artifact, row, block, source)
        except NwcError as error:
            problems.append(Problem(row.tensor, error))
    return problems


def _check_block(artifact: Artifact, row: BlockRow, data: bytes, source: Checkpoint | None) -> None:
    """Decode one block and, with a source, compare."""
    where = f"tensor {row.tensor!r}, elements [{row.start}, {row.stop})"
    check_object(data, row.length, row.sha256.hex(), where)
    decoded = artifact.decode_bytes(row, data)
    if source is None:
        return
    tensor = next((tensor for tensor in source.tensors if tensor.name == row.tensor), None)
    if tensor is None or tensor.shape != row.shape or tensor.dtype.name != row.dtype:
        found = f"{tensor.dtype.name} {list(tensor.shape)}" if tensor else "no such tensor"
        raise FormatError(f"{where} of the source", found, f"{row.dtype} {list(row.shape)}")
    original = read_bytes(source, tensor, row.start, row.stop)
    if hashlib.sha256(original).digest() != row.source_sha256:
        raise FormatError(f"{where} of the source", "other weights", "those that the artifact was made from")
    wanted = to_tensor(original, DTYPES[row.dtype], tuple(decoded.shape))
    if row.coder == "nwc":
        mse = float((decoded.double() - wanted.double()).square().mean())
        if abs(mse - row.mse) > _MSE_TOLERANCE * row.mse:
            raise FormatError(where, f"mean squared error {mse:.6g}", f"{row.mse:.6g}, as recorded")
    elif not np.array_equal(tensor_bytes(decoded), tensor_bytes(wanted)):
        raise FormatError(where, "other bits than the source's", "a lossless copy")


def _missing(artifact: Artifact, source: Checkpoint) -> list[Problem]:
    held = set(artifact.keys())
    return [
        Problem(tensor.name, FormatError(f"tensor {tensor.name!r}", "it in the source only", "it in the artifact too"))
        for tensor in source.tensors
        if tensor.name not in held
    ]
