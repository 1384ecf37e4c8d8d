"""What an artifact takes whatever the rate: codec, index, manifest, payload headers, and the tensors stored losslessly.

The rate of the lossy tensors is what is left of the wanted size, so in a small checkpoint every kilobyte counts: the
objects are built with stand-ins of the right size, and tensors that are stored losslessly are read and coded here as
long as they are few.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.objects import name_from_digest
from nwc_core.artifact.payload import block_name
from nwc_core.codec import Codec
from nwc_core.lossless import encode_lossless
from nwc_core.safetensors_header import build_header
from nwc_workflows.blocks import Block, Task
from nwc_workflows.sources import Checkpoint, read_bytes, to_tensor

# Reading these takes a second; beyond, they count as incompressible, and matter little to the whole.
_MEASURED_NBYTES = 16 << 20
_READERS = 8
# Bytes of a manifest: fixed, for each payload, and for each file besides its path, which it has twice.
_MANIFEST, _MANIFEST_PAYLOAD, _MANIFEST_FILE = 1150, 165, 130
_LENGTH = 1_000_000  # stands for the length of a coded block in headers: as many digits as most have


def fixed_nbytes(checkpoint: Checkpoint, codec: Codec, tasks: Sequence[Task]) -> int:
    """Bytes of an artifact besides its lossy blocks and the carried files."""
    blocks = [block for task in tasks for block in task.blocks]
    return (
        _lossless_nbytes(checkpoint, [block for block in blocks if not block.lossy])
        + len(write_index([_stand_in(block) for block in blocks]))
        + len(codec.to_bytes())
        + sum(_payload_header_nbytes(task) for task in tasks)
        + _manifest_nbytes(checkpoint, len(tasks))
    )


def are_measured(lossless: Sequence[Block]) -> bool:
    """Whether the blocks stored without loss count as what they are coded to; otherwise as what they are."""
    return sum(block.nbytes for block in lossless) <= _MEASURED_NBYTES


def _lossless_nbytes(checkpoint: Checkpoint, blocks: Sequence[Block]) -> int:
    if not are_measured(blocks):
        return sum(block.nbytes for block in blocks)

    def measure(block: Block) -> int:
        data = read_bytes(checkpoint, block.tensor, block.start, block.stop)
        return encode_lossless(to_tensor(data, block.tensor.dtype, block.shape)).nbytes

    with ThreadPoolExecutor(_READERS) as pool:
        return sum(pool.map(measure, blocks))


def _payload_header_nbytes(task: Task) -> int:
    names = [block_name(block.tensor.name, block.number) for block in task.blocks]
    return len(build_header([(name, "U8", (_LENGTH,)) for name in names]))


def _manifest_nbytes(checkpoint: Checkpoint, payloads: int) -> int:
    paths = [info.key for info in checkpoint.other_files] + [file.path for file in checkpoint.weight_files]
    metadata = sum(len(json.dumps(file.metadata)) for file in checkpoint.weight_files)
    return _MANIFEST + _MANIFEST_PAYLOAD * payloads + sum(_MANIFEST_FILE + 2 * len(path) for path in paths) + metadata


def _stand_in(block: Block) -> BlockRow:
    """A row of the size that the real one will have: digests do not compress."""
    digest = hashlib.sha256(f"{block.tensor.name}#{block.number}".encode()).digest()
    return BlockRow(
        tensor=block.tensor.name,
        dtype=block.tensor.dtype.name,
        shape=block.tensor.shape,
        file=block.tensor.file,
        start=block.start,
        stop=block.stop,
        coder="nwc" if block.lossy else "zstd",
        object=name_from_digest("payload", hashlib.sha256(block.tensor.file.encode()).hexdigest()),
        offset=block.tensor.start,
        length=block.nbytes // 7,
        sha256=digest,
        source_sha256=hashlib.sha256(digest).digest(),
        side_nbytes=block.numel % 256 if block.lossy else 0,
        mse=(1 + digest[0]) / 7 if block.lossy else 0.0,
    )
