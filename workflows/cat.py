"""One tensor, or some rows of it, as a file of its own: .npy or .safetensors, streamed block by block."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

from nwc_core.artifact.reader import Artifact
from nwc_core.dtypes import DTYPES, DType
from nwc_core.errors import UnknownTensorError, UsageError
from nwc_core.lossless import tensor_bytes
from nwc_core.safetensors_header import build_header
from nwc_workflows.single_file import single_file

NPY, SAFETENSORS = ".npy", ".safetensors"
# What numpy has no type for; float32 holds each of their values exactly.
_WIDENED = ("BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0")


@dataclass(frozen=True)
class Excerpt:
    """Rows of one tensor, in the form of one kind of file.

    Attributes:
        artifact: that holds it.
        name: of the tensor.
        start, stop: half-open range of rows, of the first axis; (0, 1) of a scalar.
        shape: of the excerpt.
        stored: element type in the artifact.
        dtype: element type in the file.
        suffix: NPY or SAFETENSORS.
    """

    artifact: Artifact
    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    stored: DType
    dtype: DType
    suffix: str

    def chunks(self) -> Iterator[bytes]:
        """The file, piece by piece; memory holds a few blocks.

        Raises:
            IntegrityError, FormatError: a block is damaged.
        """
        yield self._header()
        rows = self.artifact.index.blocks(self.name)
        row_numel = math.prod(self.shape[1:])
        low, high = self.start * row_numel, self.stop * row_numel
        wanted = [row for row in rows if row.start < high and row.stop > low]
        for row, block in zip(wanted, self.artifact.iter_blocks(wanted), strict=True):
            part = block.reshape(-1)[max(0, low - row.start) : high - row.start]
            yield tensor_bytes(part if self.dtype == self.stored else part.to(self.dtype.torch)).tobytes()

    def _header(self) -> bytes:
        if self.suffix == SAFETENSORS:
            return build_header([(self.name, self.dtype.name, self.shape)], {"format": "pt"})
        import numpy as np
        import torch

        numpy_type = torch.empty(0, dtype=self.dtype.torch).numpy().dtype.newbyteorder("<")
        out = io.BytesIO()
        fields = {"descr": np.lib.format.dtype_to_descr(numpy_type), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(out, fields)
        return out.getvalue()


def excerpt(artifact: Artifact, name: str, rows: str | None, suffix: str) -> Excerpt:
    """Rows of a tensor; nothing is read yet.

    Args:
        artifact: that holds it.
        name: of the tensor.
        rows: "START:STOP", either may be left out or be negative, as in Python; None for all.
        suffix: NPY or SAFETENSORS.

    Raises:
        UnknownTensorError: there is no such tensor.
        UsageError: not such a range, or rows that the tensor does not have.
    """
    if name not in artifact:
        raise UnknownTensorError(name, artifact.store.uri)
    first = artifact.index.blocks(name)[0]
    shape, stored = first.shape, DTYPES[first.dtype]
    start, stop = 0, shape[0] if shape else 1
    if rows is not None:
        start, stop = _range(rows, shape, name)
        shape = (stop - start, *shape[1:])
    dtype = DTYPES["F32"] if suffix == NPY and stored.name in _WIDENED else stored
    return Excerpt(artifact, name, start, stop, shape, stored, dtype, suffix)


def suffix_of(place: str) -> str:
    """The kind of file that a place asks for by its name; "-", for standard output, is NPY.

    Raises:
        UsageError: it asks for neither.
    """
    if place == "-":
        return NPY
    found = next((suffix for suffix in (NPY, SAFETENSORS) if place.endswith(suffix)), None)
    if found is None:
        raise UsageError(
            f"to: found {place!r}; wanted a name that ends in {NPY} or {SAFETENSORS}, or - for standard output"
        )
    return found


def write_file(wanted: Excerpt, place: str, *, force: bool = False) -> tuple[str, int]:
    """Write an excerpt as one file, atomically; its place in full and its size in bytes.

    Args:
        wanted: what.
        place: a local path, or a URI of any store.
        force: whether a file that is there may be replaced.

    Raises:
        AlreadyExistsError: the file is there; it was not touched.
        IntegrityError, FormatError: the artifact is damaged; no file was written.
    """
    file = single_file(place, force=force)
    return file.where, file.write(wanted.chunks())


def _range(rows: str, shape: tuple[int, ...], name: str) -> tuple[int, int]:
    if not shape:
        raise UsageError(f"rows: found {rows!r}, but tensor {name!r} is a scalar; leave it out")
    parts = rows.split(":")
    try:
        start, stop = (
            int(part) if part.strip() else default for part, default in zip(parts, (0, shape[0]), strict=True)
        )
    except ValueError:
        raise UsageError(f"rows: found {rows!r}; wanted START:STOP, such as 0:128") from None
    start, stop = (value + shape[0] if value < 0 else value for value in (start, stop))
    if not 0 <= start <= stop <= shape[0]:
        raise UsageError(f"rows: found {rows!r}; wanted rows within 0:{shape[0]}, which tensor {name!r} has")
    return start, stop
