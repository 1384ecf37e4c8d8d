"""What an artifact takes whatever the rate: codec, index, manifest, payload headers, and the tensors stored losslessly.

The rate of the lossy tensors is what is left of the wanted size, so in a small checkpoint every kilobyte counts: the
objects are built with stand-ins of the right size, and tensors that are stored losslessly are read and coded here as
long as they are few. In a large one they do not matter to the rate: then nothing is read, and planning takes milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.objects import name_from_digest
from nwc_core.artifact.payload import block_name
from nwc_core.codec import Codec
from nwc_workflows.base import BaseArtifact, encode_exact
from nwc_workflows.blocks import Block, Task
from nwc_workflows.sources import Checkpoint, read_bytes, to_tensor

# Reading these takes a second; beyond, they count as incompressible, and matter little to the whole.
_MEASURED_NBYTES = 16 << 20
_READERS = 8
# Bits per weight of the whole checkpoint: what takes less is estimated, since a size is met within 0.01 bit anyway.
_NEGLIGIBLE = 0.004
# Bytes of an index, within 5 % of what Parquet makes of it: fixed, and for each row, of which 64 are digests.
_INDEX, _INDEX_ROW = 2650, 70
# Bytes of a manifest: fixed, for each payload, and for each file besides its path, which it has twice.
_MANIFEST, _MANIFEST_PAYLOAD, _MANIFEST_FILE = 1150, 165, 130
_LENGTH = 1_000_000  # stands for the length of a coded block in headers: as many digits as most have
_as_json = json.JSONEncoder(ensure_ascii=False).encode
# Of an entry in a header, besides its name and its offsets.
_ENTRY_NBYTES = len(f':{{"dtype":"U8","shape":[{_LENGTH}],"data_offsets":[,]}},')


def fixed_nbytes(
    checkpoint: Checkpoint,
    codec: Codec,
    tasks: Sequence[Task],
    base: BaseArtifact | None = None,
    copies: Collection[str] = (),
) -> int:
    """Bytes of an artifact besides its lossy blocks and the carried files.

    Args:
        checkpoint, codec, tasks: of it.
        base: what its blocks are coded against.
        copies: names of tensors that take no bytes of their own.
    """
    blocks = [block for task in tasks for block in task.blocks]
    return (
        _lossless_nbytes(checkpoint, [block for block in blocks if block.tensor.name not in copies], base)
        + _index_nbytes(blocks)
        + len(codec.to_bytes())
        + sum(_payload_header_nbytes(task) for task in tasks)
        + _manifest_nbytes(checkpoint, len(tasks))
    )


def are_measured(blocks: Sequence[Block]) -> bool:
    """Whether those blocks of a plan that are stored without loss count as what they are coded to; or as what they are."""
    nbytes = sum(block.nbytes for block in blocks if not block.lossy)
    return nbytes <= _MEASURED_NBYTES and not _is_negligible(nbytes, blocks)


def _is_negligible(nbytes: int, blocks: Sequence[Block]) -> bool:
    return 8 * nbytes <= _NEGLIGIBLE * sum(block.numel for block in blocks)


def _lossless_nbytes(checkpoint: Checkpoint, blocks: Sequence[Block], base: BaseArtifact | None) -> int:
    lossless = [block for block in blocks if not block.lossy]
    if not are_measured(blocks):
        return sum(block.nbytes for block in lossless)

    def measure(block: Block) -> int:
        data = read_bytes(checkpoint, block.tensor, block.start, block.stop)
        tensor = to_tensor(data, block.tensor.dtype, block.shape)
        return encode_exact(tensor, None if base is None else base.elements(block)).nbytes

    with ThreadPoolExecutor(_READERS) as pool:
        return sum(pool.map(measure, lossless))


def _index_nbytes(blocks: Sequence[Block]) -> int:
    estimated = _INDEX + _INDEX_ROW * len(blocks)
    names = sum(len(block.tensor.name) for block in blocks)  # which compress, how well they alone know
    if _is_negligible(estimated + names, blocks):
        return estimated
    return len(write_index([_stand_in(block) for block in blocks]))


def _payload_header_nbytes(task: Task) -> int:
    """As `build_header` makes it of entries of _LENGTH bytes, without checking each: padded to 8, after a length of 8."""
    size = 1  # "{" and, behind each entry, "," or "}"
    for number, block in enumerate(task.blocks):
        name = _as_json(block_name(block.tensor.name, block.number))
        offsets = len(str(number * _LENGTH)) + len(str((number + 1) * _LENGTH))
        size += (len(name) if name.isascii() else len(name.encode())) + _ENTRY_NBYTES + offsets
    return 8 + -(-size // 8) * 8


def _manifest_nbytes(checkpoint: Checkpoint, payloads: int) -> int:
    paths = [info.key for info in checkpoint.other_files] + [file.path for file in checkpoint.weight_files]
    metadata = sum(len(json.dumps(file.metadata)) for file in checkpoint.weight_files)
    return _MANIFEST + _MANIFEST_PAYLOAD * payloads + sum(_MANIFEST_FILE + 2 * len(path) for path in paths) + metadata


def _stand_in(block: Block) -> BlockRow:
    payload = name_from_digest("payload", hashlib.sha256(block.tensor.file.encode()).hexdigest())
    return stand_in(block, payload, block.tensor.start, block.nbytes // 7)


def stand_in(block: Block, payload: str, offset: int, length: int) -> BlockRow:
    """A row of the size that the real one will have: digests do not compress.

    Args:
        block: that the row is of.
        payload: key of an object.
        offset, length: of the coded block in it, bytes.
    """
    digest = hashlib.sha256(f"{block.tensor.name}#{block.number}".encode()).digest()
    return BlockRow(
        tensor=block.tensor.name,
        dtype=block.tensor.dtype.name,
        shape=block.tensor.shape,
        file=block.tensor.file,
        start=block.start,
        stop=block.stop,
        coder="nwc" if block.lossy else "zstd",
        object=payload,
        offset=offset,
        length=length,
        sha256=digest,
        source_sha256=hashlib.sha256(digest).digest(),
        side_nbytes=block.numel % 256 if block.lossy else 0,
        mse=(1 + digest[0]) / 7 if block.lossy else 0.0,
    )
