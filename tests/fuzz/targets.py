"""What is fuzzed: for each reader of untrusted bytes a function of one input, and inputs to start from.

A target returns normally or raises one of our own errors; anything else, or a wrong answer, is a finding. Readers whose
input carries a digest get it recomputed, so that the fuzzer reaches what lies behind it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

for folder in ("hostile", "nwc_core"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / folder))

import numpy as np  # noqa: E402
import zstandard  # noqa: E402
from artifact_samples import MemoryStore  # noqa: E402
from codec_samples import sample_codec  # noqa: E402
from hostile_sample import intact, manifest_of, rows_of, with_block  # noqa: E402

import nwc_core as nwc  # noqa: E402
from nwc_core.artifact.index import BlockRow, read_index  # noqa: E402
from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest  # noqa: E402
from nwc_core.artifact.payload import check_payload  # noqa: E402
from nwc_core.codec import Codec  # noqa: E402
from nwc_core.encoded import EncodedTensor  # noqa: E402
from nwc_core.errors import NwcError  # noqa: E402
from nwc_core.prior_file import pack_prior, unpack_prior  # noqa: E402
from nwc_core.safetensors_header import parse_header  # noqa: E402
from nwc_core.strict_json import parse_json  # noqa: E402

# A coded byte may honestly hold 2^17 weights. Larger claims are refused by the readers or not made here: the fuzzer
# looks for crashes, not for the slowness that the format allows.
MAX_FUZZED_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        run: reads one input.
        seeds: sound inputs.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def only_our_errors(run: Callable[[bytes], None], data: bytes) -> bool:
    """Whether the input was accepted. Errors of other kinds pass through."""
    try:
        with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(data)
    except NwcError as error:
        assert len(str(error)) < 4000, "a message that long helps nobody"
        return False
    return True


def _json(data: bytes) -> None:
    parse_json(data, "fuzzed")


def _header(data: bytes) -> None:
    header = parse_header(lambda start, stop: data[start:stop], len(data), "fuzzed")
    assert all(header.data_start <= t.start <= t.stop <= len(data) for t in header.tensors.values())


def _manifest(data: bytes) -> None:
    """Bytes as they are; and, where they are JSON with a checksum, the same with the right one."""
    only_our_errors(lambda raw: Manifest.from_bytes(raw) and None, data)
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict) or fields.get("checksum") is None:
            return
        blank = json.dumps({**fields, "checksum": "0" * 64}).encode()
    except (ValueError, RecursionError):
        return
    checksum = hashlib.sha256(blank).hexdigest()
    manifest = Manifest.from_bytes(blank.replace(b"0" * 64, checksum.encode()))
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def _index(data: bytes) -> None:
    index = read_index(data, manifest_of(intact()), "fuzzed")
    for row in index:
        assert 0 <= row.start <= row.stop and row.offset + row.length <= 1 << 20


def _payload(data: bytes) -> None:
    rows = _rows()
    check_payload(data, [row for row in rows if row.object == rows[0].object], "fuzzed")


def _codec(data: bytes) -> None:
    codec = Codec.from_bytes(data)
    anew = Codec.of(codec.coder, codec.provenance).to_bytes()
    again = Codec.from_bytes(anew)
    assert Codec.of(again.coder, again.provenance).to_bytes() == anew


def _tables(data: bytes) -> None:
    packed = np.frombuffer(zstandard.ZstdCompressor(level=1).compress(data), np.uint8)
    prior = unpack_prior(packed, "fuzzed")
    assert len(prior.tables) == prior.shapes
    assert unpack_prior(pack_prior(prior), "again").halves.tobytes() == prior.halves.tobytes()


def _unpacked_tables() -> bytes:
    return zstandard.ZstdDecompressor().decompress(pack_prior(sample_codec().prior).tobytes())


def _encoded(data: bytes) -> None:
    encoded = EncodedTensor.from_bytes(data)
    if encoded.numel > MAX_FUZZED_ELEMENTS:
        return
    decoded = sample_codec().decode(encoded)
    assert tuple(decoded.shape) == encoded.shape and decoded.dtype == encoded.dtype.torch


def _open(data: bytes) -> None:
    """A whole artifact whose first block is the input, all digests right: the path that a reader takes."""
    if len(data) < 1 or _claims_much(data):
        return
    nwc.load(MemoryStore(with_block(intact(), "layers.0.weight", lambda _: data)))


def _claims_much(data: bytes) -> bool:
    try:
        return EncodedTensor.from_bytes(data).numel > MAX_FUZZED_ELEMENTS
    except NwcError:
        return False


@cache
def _rows() -> list[BlockRow]:
    return rows_of(intact())


@cache
def _blocks() -> list[bytes]:
    objects = intact()
    return [objects[row.object][row.offset : row.offset + row.length] for row in _rows()]


def _object(kind: str) -> bytes:
    manifest = manifest_of(intact())
    return intact()[getattr(manifest, kind).object]


def _heads() -> list[bytes]:
    return [_object("codec"), *(intact()[ref.object] for ref in manifest_of(intact()).payloads)]


TARGETS: dict[str, Target] = {
    "JSON": Target(_json, lambda: [intact()[MANIFEST_KEY], b'{"a":[1,-0,1e9,"\\ud83d\\ude00",null,true]}']),
    "safetensors header": Target(_header, _heads),
    "manifest": Target(_manifest, lambda: [intact()[MANIFEST_KEY]]),
    "index (Parquet)": Target(_index, lambda: [_object("index")]),
    "payload": Target(_payload, lambda: [intact()[_rows()[0].object]]),
    "codec file": Target(_codec, lambda: [_object("codec")]),
    "unpacked tables of a codec": Target(_tables, lambda: [_unpacked_tables()]),
    "coded tensor and decoder": Target(_encoded, _blocks),
    "artifact with a hostile block": Target(_open, lambda: _blocks()[:2]),
}
