"""Hostile artifacts whose digests are all right: what their author claims has to be compared with what is there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

from artifact_samples import MemoryStore
from case import MEGABYTE, Case
from coded_cases import coded, frame
from hostile_sample import SHARD, Objects, intact, manifest_of, resealed, rows_of, with_block

import nwc_core as nwc
from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.manifest import MANIFEST_KEY, MAX_MANIFEST_BYTES, Manifest
from nwc_core.errors import FormatError, IntegrityError, NotFoundError, VersionError

TERABYTE = 1 << 40


def sound() -> None:
    """Everything that is imported and compiled on the way, done once."""
    read(intact())


def read(objects: object) -> object:
    """Open the artifact and read all of it."""
    assert isinstance(objects, dict)
    return nwc.load(MemoryStore(objects))


def read_manifest(data: object) -> object:
    assert isinstance(data, bytes)
    return Manifest.from_bytes(data, "m.nwc/manifest.json")


def signed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The manifest with fields changed and a right checksum."""
    fields = json.loads(intact()[MANIFEST_KEY])
    change(fields)
    blank = json.dumps({**fields, "checksum": "0" * 64}, sort_keys=True).encode()
    checksum = hashlib.sha256(blank).hexdigest()
    return blank.replace(f'"checksum": "{"0" * 64}"'.encode(), f'"checksum": "{checksum}"'.encode())


def spliced(key: str, raw: str) -> bytes:
    """The manifest with raw JSON as the value of a new key: what the parser has to survive before any check."""
    text = intact()[MANIFEST_KEY].decode()
    return text.replace("{", f'{{"{key}": {raw},', 1).encode()


def claims(size: int = 1 << 62, **row: object) -> Objects:
    """The first row of the index changed, the weight file and the counts made to agree."""
    rows = rows_of(intact())
    rows = [row_of for row_of in rows if row_of.tensor != rows[0].tensor or row_of.start == 0]
    rows[0] = dataclasses.replace(rows[0], **row)  # type: ignore[arg-type]
    return with_rows(rows, size)


def with_rows(rows: list[BlockRow], size: int = 1 << 62) -> Objects:
    manifest = manifest_of(intact())
    counts = manifest.counts.model_copy(
        update={"weights": sum(r.numel for r in rows), "blocks": len(rows), "tensors": len({r.tensor for r in rows})}
    )
    weights = [manifest.weight_files[0].model_copy(update={"size": size})]
    return resealed(intact(), "index", write_index(rows), counts=counts, weight_files=weights)


def lying_payload(size: int) -> Objects:
    """The manifest says that the first payload is larger than it is."""
    manifest = manifest_of(intact())
    first, *others = manifest.payloads
    payloads = [first.model_copy(update={"size": size}), *others]
    counts = manifest.counts.model_copy(update={"payload_bytes": sum(ref.size for ref in payloads)})
    changed = manifest.model_copy(update={"payloads": payloads, "counts": counts})
    return {**intact(), MANIFEST_KEY: changed.to_bytes()}


def _far_block() -> Objects:
    """A block of a sound size that the payload's true end cuts off, and the manifest does not."""
    objects = lying_payload(1 << 40)
    manifest = manifest_of(objects)
    rows = rows_of(intact())
    rows[0] = dataclasses.replace(rows[0], offset=1 << 39)
    return resealed(objects, "index", write_index(rows), counts=manifest.counts)


def _second_block_lies() -> Objects:
    """A sound block, and one of four billion weights that would lie beyond the payload's true end."""
    first, second, *others = rows_of(intact())
    assert first.tensor == second.tensor
    shape = (first.shape[0] // 2 + (1 << 26), 40)
    total = shape[0] * shape[1]
    objects = lying_payload(1 << 40)
    manifest = manifest_of(objects)
    rows = [
        dataclasses.replace(first, shape=shape),
        dataclasses.replace(second, shape=shape, stop=total, offset=1 << 39, length=1 << 30),
        *others,
    ]
    counts = manifest.counts.model_copy(update={"weights": sum(r.numel for r in rows)})
    weights = [manifest.weight_files[0].model_copy(update={"size": 1 << 62})]
    return resealed(objects, "index", write_index(rows), counts=counts, weight_files=weights)


def block(tensor: str, data: bytes, **row: object) -> Objects:
    return with_block(intact(), tensor, lambda _: data, **row)


def traversing(field: str, bad: str) -> bytes:
    """A manifest with a bad path in the first entry of a list."""
    name, key = field.split(".")

    def change(fields: dict[str, Any]) -> None:
        fields[name][0][key] = bad

    return signed(change)


BAD_PATHS = ("../evil", "/etc/cron.d/evil", "a/../../evil", "..", "a//evil", "./evil", "a\\..\\evil", "evil\0", "")
FIELDS = ("files.path", "files.object", "derived.object", "weight_files.path", "payloads.object")

CASES = [
    Case(f"{field} {bad!r}", lambda field=field, bad=bad: traversing(field, bad), read_manifest, f"key {name}.0.{key}: found")
    for field in FIELDS
    for name, key in [field.split(".")]
    for bad in BAD_PATHS
]  # fmt: skip
CASES += [
    Case(name, make, read_manifest, words, error)
    for name, make, words, error in [
        ("manifest of a newer version", lambda: signed(lambda f: f.update(version=9)), "found 9", VersionError),
        ("manifest nested 900 deep", lambda: signed(lambda f: f.update(job={"a": _nested(900)})), "key job.a", FormatError),
        ("manifest nested 100,000 deep", lambda: spliced("a", "[" * 100_000 + "]" * 100_000), "nested", FormatError),
        ("manifest with a key twice", lambda: spliced("version", "1"), "'version' twice", FormatError),
        ("manifest with NaN", lambda: spliced("a", "NaN"), "found NaN", FormatError),
        ("manifest with a number of 100,000 digits", lambda: spliced("a", "9" * 100_000), "checksum|key a", IntegrityError),
        ("manifest with half of a surrogate pair", lambda: spliced("a", '"\\ud800"'), "surrogate", FormatError),
        ("manifest signed with a number", lambda: signed(lambda f: f).replace(b'"checksum": "', b'"checksum": 5, "x": "'),
         "64 lower-case", FormatError),
        ("manifest with 2^63 bytes of index", lambda: signed(lambda f: f["index"].update(size=1 << 63)), "index.size",
         FormatError),
        ("manifest with a name of 100,000 letters", lambda: traversing("files.path", "x" * 100_000), "1 to 1024 bytes",
         FormatError),
        ("manifest with unknown keys of 100,000 letters", lambda: signed(lambda f: f.update({"x" * 100_000: 1})),
         "no such key", FormatError),
        ("two files of one path", lambda: signed(lambda f: f["files"][0].update(path=SHARD)), "named by|each name once",
         FormatError),
        ("an object that is the manifest", lambda: traversing("files.object", MANIFEST_KEY), "the manifest itself",
         FormatError),
    ]
]  # fmt: skip
CASES += [
    Case(name, make, read, words, error, memory)
    for name, make, words, error, memory in [
        ("index that claims 2^48 weights in one block", lambda: claims(shape=(1 << 24, 1 << 24), stop=1 << 48),
         "281474976710656 elements; wanted at most", FormatError, 2 * MEGABYTE),
        ("index that claims a terabyte of zstd", lambda: claims(shape=(1 << 40,), stop=1 << 40, coder="zstd", mse=0.0),
         "1099511627776 elements; wanted at most", FormatError, 2 * MEGABYTE),
        ("index that claims more raw elements than bytes",
         lambda: claims(shape=(4096, 40), stop=4096 * 40, coder="raw", mse=0.0), "163840 elements; wanted at most",
         FormatError, 2 * MEGABYTE),
        ("index that claims more than the weight file had", lambda: with_rows(rows_of(intact()), size=1000),
         "no more than the file had", FormatError, 2 * MEGABYTE),
        ("index whose block claims what its bytes could just hold", lambda: claims(shape=(1 << 20, 64), stop=1 << 26),
         "found shape", FormatError, 2 * MEGABYTE),
        ("payload that the manifest calls a terabyte", _far_block, "found an object of|bytes", IntegrityError,
         2 * MEGABYTE),
        ("codec that the manifest names and nobody stored",
         lambda: {k: v for k, v in _fresh_codec().items() if not k.startswith("codec-")}, "no such object",
         NotFoundError, 2 * MEGABYTE),
        ("block of another shape than its row", lambda: block("norm", coded((21,), bytes(84), coder="raw")),
         r"found shape \[21\]; wanted elements \[0, 20\)", FormatError, 2 * MEGABYTE),
        ("block of the transposed shape", lambda: block("outlier", coded((1600, 1), bytes(12800), "F64", "raw"), coder="raw",
         mse=0.0), r"found shape \[1600, 1\]", FormatError, 2 * MEGABYTE),
        ("block of another type", lambda: block("norm", coded((20,), bytes(160), "F64", "raw")), "F64 coded by raw",
         FormatError, 2 * MEGABYTE),
        ("block of another coder", lambda: block("norm", coded((20,), frame(80) + bytes(80), coder="zstd")),
         "F32 coded by zstd", FormatError, 2 * MEGABYTE),
        ("block of 100 bytes that claims 2^48 weights",
         lambda: block("norm", coded((1 << 24, 1 << 24), bytes(80), coder="raw")), "found shape", FormatError, 2 * MEGABYTE),
        ("block with a frame that claims 2^62 bytes",
         lambda: block("position_ids", coded((500,), frame(1 << 62), "I32", "zstd")), "frame of 4611686018427387904",
         FormatError, 2 * MEGABYTE),
        ("block that is no coded tensor", lambda: block("norm", b"\xff" * 100), "version 255", VersionError, 2 * MEGABYTE),
    ]
]  # fmt: skip
# The memory of the whole tensor is reserved, though not used, before the lie shows: not for a process with a limit.
RESERVING = [
    Case(
        "second block that claims 10 GB behind the payload's end",
        _second_block_lies,
        read,
        r"tensor 'layers\.0\.weight', block \[1920, ",
        IntegrityError,
        memory=4 * MEGABYTE,
    )
]
CASES += [
    Case(
        "manifest longer than any",
        lambda: b'{"a": "' + b"x" * MAX_MANIFEST_BYTES + b'"}',
        read_manifest,
        f"at most {MAX_MANIFEST_BYTES}",
    )
]


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def _fresh_codec() -> Objects:
    """With a codec of which no process holds a parsed copy."""
    data = intact()[manifest_of(intact()).codec.object]
    return resealed(intact(), "codec", data.replace(b"codec_samples", b"codec_nowhere"))
