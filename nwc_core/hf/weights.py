"""An artifact in the shape of the weight file that transformers expects: opened like one of safetensors, tensors lazy.

transformers opens a checkpoint's files by `safe_open` and takes a slice of each tensor; it then reads the slices one by
one, renames, converts and places them. An artifact gives it the same, under a file name that no file has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nwc_core.artifact.assembly import Assembly
from nwc_core.artifact.fetch import available_cores
from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.objects import check_object
from nwc_core.artifact.reader import Artifact, open
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import WITH_BASE, EncodedTensor
from nwc_core.errors import FormatError, UsageError
from nwc_core.hf.block_bytes import BlockBytes
from nwc_core.hf.coded_weight import CodedWeight
from nwc_core.strict_json import shown

if TYPE_CHECKING:
    import torch

# What config.json gives as `transformers_weights`, the name of the weight file. There is none of that name: where nobody
# imported nwc_core.hf, transformers says so in this message: "No such file: ...".
WEIGHTS_NAME = "import-nwc_core.hf-to-load-this.safetensors"
_TRANSFORMERS_THREADS = 4  # on which it reads
_WORTH_KEEPING = 0.75  # of the decoded size: above, staying compressed costs time for nothing


class WeightFile(str):
    """The name of the weight file of an artifact, which knows where the artifact is and how its tensors are wanted."""

    source: str | Path
    compressed: bool

    def __new__(cls, source: str | Path, compressed: bool) -> WeightFile:
        name = super().__new__(cls, f"{source}/{WEIGHTS_NAME}")
        name.source, name.compressed = source, compressed
        return name

    def __reduce__(self) -> tuple[type[WeightFile], tuple[str | Path, bool]]:
        return type(self), (self.source, self.compressed)


class OpenWeights:
    """The tensors of an artifact, as `safetensors.safe_open` gives those of a file.

    Args:
        source: where the artifact is.
        compressed: whether large tensors stay compressed in memory.

    Raises:
        NotFoundError: there is no artifact.
        VersionError, IntegrityError, FormatError: it is newer than this package, or damaged.
        UsageError: the checkpoint was quantized in another way before it was compressed.
    """

    def __init__(self, source: str | Path, compressed: bool = False) -> None:
        self._artifact = open(source)
        _check_plain(self._artifact)
        self._compressed = compressed
        self._bytes = BlockBytes(self._artifact)
        if len(self._artifact):
            self._artifact.codec  # noqa: B018  read once here, not by every thread

    def __enter__(self) -> OpenWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return self._artifact.keys()

    def metadata(self) -> dict[str, str]:
        """The metadata of the original weight files; "format" is "pt", without which transformers refuses a file."""
        return {**self._artifact.metadata(), "format": "pt"}

    def get_slice(self, name: str) -> LazyTensor:
        """A tensor that is not read yet."""
        return LazyTensor(self._artifact, self._artifact.index.blocks(name), self._bytes, self._compressed)

    def get_tensor(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        return self.get_slice(name)[...]


class LazyTensor:
    """One tensor of an artifact, not read yet; `tensor[...]` reads it, and other indices read what they need."""

    def __init__(
        self, artifact: Artifact, rows: tuple[BlockRow, ...], block_bytes: BlockBytes, compressed: bool
    ) -> None:
        self._artifact, self._rows, self._bytes = artifact, rows, block_bytes
        self._compressed = compressed and _is_worth_keeping(rows)

    def get_shape(self) -> list[int]:
        """Shape of the tensor."""
        return list(self._rows[0].shape)

    def get_dtype(self) -> str:
        """safetensors' name of the element type, e.g. "BF16"."""
        return self._rows[0].dtype

    def __getitem__(self, key: Any) -> torch.Tensor:
        """Raises IntegrityError, FormatError: a block is damaged."""
        if key is not Ellipsis:
            return self._artifact.get_slice(self._rows[0].tensor)[key]
        return self._coded() if self._compressed else self._decoded()

    def _decoded(self) -> torch.Tensor:
        threads = max(1, available_cores() // _TRANSFORMERS_THREADS)
        whole = Assembly(self._rows)
        for row in self._rows:  # besides the tensor itself, memory holds the bytes of a request
            data = self._bytes.take(row)
            whole.place(row, self._artifact.decode_bytes(row, data, threads, whole.room(row)))
        return whole.result().reshape(self._rows[0].shape)

    def _coded(self) -> torch.Tensor:
        from nwc_core.hf.compressed import CompressedTensor

        first = self._rows[0]
        blocks = tuple(_parse(row, self._bytes.take(row)) for row in self._rows)
        return CompressedTensor(CodedWeight(first.tensor, first.dtype, first.shape, blocks, self._artifact.codec))


def _check_plain(artifact: Artifact) -> None:
    """A model has one quantizer: one that another method made cannot be put together again by this one."""
    for file in artifact.manifest.files:
        if file.path == "config.json":
            where = f"{artifact.store.uri}/{file.object}"
            data = artifact.store.get(file.object)
            check_object(data, file.size, file.sha256, where)
            before = json.loads(data).get("quantization_config")
            if before:
                method = shown(before.get("quant_method")) if isinstance(before, dict) else shown(before)
                raise UsageError(
                    f"{where}: found a checkpoint that was quantized by {method}; wanted a plain one: run `nwc decompress`"
                )


def _is_worth_keeping(rows: tuple[BlockRow, ...]) -> bool:
    first = rows[0]
    decoded = rows[-1].stop * DTYPES[first.dtype].itemsize
    if any(row.coder in WITH_BASE for row in rows):  # its base would have to stay, too
        return False
    return len(first.shape) > 1 and sum(row.length for row in rows) < _WORTH_KEEPING * decoded


def _parse(row: BlockRow, data: bytes) -> EncodedTensor:
    """A block's header, checked; its body is checked whenever it is decoded.

    Raises:
        FormatError: it is another block than the index says.
    """
    encoded = EncodedTensor.from_bytes(data, row.tensor)
    if (encoded.dtype.name, encoded.coder, encoded.numel) != (row.dtype, row.coder, row.numel):
        raise FormatError(
            f"tensor {row.tensor!r}, block [{row.start}, {row.stop})",
            f"{encoded.numel} elements {encoded.dtype.name} coded by {encoded.coder}",
            f"{row.numel} elements {row.dtype} by {row.coder}",
        )
    return encoded


def opening_artifacts(safe_open: Callable[..., Any]) -> Callable[..., Any]:
    """safetensors' `safe_open`, which besides opens the weight files of artifacts."""

    def safe_open_or_artifact(filename: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        if isinstance(filename, WeightFile):
            return OpenWeights(filename.source, filename.compressed)
        if Path(filename).name == WEIGHTS_NAME:
            return OpenWeights(Path(filename).parent)
        return safe_open(filename, *args, **kwargs)

    safe_open_or_artifact.opens_artifacts = True  # type: ignore[attr-defined]
    return safe_open_or_artifact
