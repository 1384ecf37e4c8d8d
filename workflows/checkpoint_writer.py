"""Writing a checkpoint out of an artifact: safetensors files of chosen tensors, and other files beside them.

Weight files are streamed block by block, whatever the size of a shard; nothing is replaced, and no file is ever half
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.manifest import CarriedFile
from nwc_core.artifact.objects import check_object
from nwc_core.artifact.reader import Artifact
from nwc_core.dtypes import DTYPES, DType
from nwc_core.errors import AlreadyExistsError, NotFoundError
from nwc_core.lossless import tensor_bytes
from nwc_core.safetensors_header import build_header
from nwc_core.store import Store
from nwc_workflows.float_types import converted

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Written:
    """One file written: its path in the checkpoint and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class WeightsFile:
    """One safetensors file to write.

    Attributes:
        path: in the checkpoint.
        rows: blocks of its tensors, in the order in which they are to lie.
        metadata: for its header.
        dtype: what floating-point tensors become; None leaves all as they are.
    """

    path: str
    rows: Sequence[BlockRow]
    metadata: Mapping[str, str] = field(default_factory=dict)
    dtype: DType | None = None

    def header(self) -> bytes:
        """The file's first bytes, up to its data."""
        first = [row for row in self.rows if row.start == 0]
        return build_header([(row.tensor, self._dtype(row).name, row.shape) for row in first], self.metadata)

    @property
    def size(self) -> int:
        """Of the whole file, bytes."""
        return len(self.header()) + sum(row.numel * self._dtype(row).itemsize for row in self.rows)

    def chunks(self, artifact: Artifact) -> Iterator[bytes]:
        """The file, piece by piece."""
        yield self.header()
        for row, block in zip(self.rows, artifact.iter_blocks(self.rows), strict=True):
            yield tensor_bytes(self._as_wanted(row, block)).tobytes()

    def _as_wanted(self, row: BlockRow, block: torch.Tensor) -> torch.Tensor:
        dtype = self._dtype(row)
        return block if dtype.name == row.dtype else converted(block, dtype, row.tensor)

    def _dtype(self, row: BlockRow) -> DType:
        found = DTYPES[row.dtype]
        return self.dtype if self.dtype is not None and found.lossy else found


OtherFile = tuple[str, Callable[[], bytes]]  # path in the checkpoint, what gives the content


def write_checkpoint(
    artifact: Artifact,
    destination: Store,
    weights: Sequence[WeightsFile],
    others: Sequence[OtherFile],
    on_progress: Callable[[int], None] = lambda nbytes: None,
) -> list[Written]:
    """Write all of these files: the weights first, since a folder with a config.json looks like a model.

    Args:
        artifact: to read.
        destination: must hold none of the files yet.
        on_progress: called with bytes as they are written.

    Raises:
        AlreadyExistsError: a file is there already; nothing was written.
        IntegrityError, FormatError: the artifact is damaged; the file at hand was not written.
    """
    for path in [file.path for file in weights] + [path for path, _ in others]:
        if exists(destination, path):
            raise AlreadyExistsError(
                f"{destination.uri}/{path}", "already exists; nothing was written; choose another destination"
            )
    for _, content in others:  # damage is found before anything is written: it takes no time, unlike the weights
        content()
    written = []
    for file in weights:
        size = 0

        def counted(file: WeightsFile = file) -> Iterator[bytes]:
            nonlocal size
            for chunk in file.chunks(artifact):
                size += len(chunk)
                on_progress(len(chunk))
                yield chunk

        destination.put_stream(file.path, counted())
        written.append(Written(file.path, size))
    for path, content in others:
        data = content()
        destination.put(path, data)
        on_progress(len(data))
        written.append(Written(path, len(data)))
    return written


def carried_content(artifact: Artifact, file: CarriedFile) -> bytes:
    """The content of a carried file, digest checked."""
    data = artifact.store.get(file.object)
    check_object(data, file.size, file.sha256, f"{artifact.store.uri}/{file.object}")
    return data


def exists(store: Store, key: str) -> bool:
    """Whether an object is there."""
    try:
        store.size(key)
    except NotFoundError:
        return False
    return True
