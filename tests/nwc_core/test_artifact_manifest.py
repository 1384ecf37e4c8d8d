"""manifest.json: round trip, fixed bytes, and every way in which a hostile one is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from nwc_core.artifact.manifest import (
    MAX_MANIFEST_BYTES,
    CarriedFile,
    Counts,
    DerivedFile,
    Manifest,
    Skipped,
    WeightFile,
)
from nwc_core.artifact.objects import ObjectRef, object_name
from nwc_core.errors import FormatError, IntegrityError, VersionError

DIGESTS = {"codec": "c0" * 32, "index": "1d" * 32, "payload": "da" * 32, "other": "0f" * 32}
MANIFEST = Manifest(
    codec=ObjectRef(object=f"codec-{'c0' * 16}.safetensors", size=1000, sha256=DIGESTS["codec"]),
    index=ObjectRef(object=f"index-{'1d' * 16}.parquet", size=2000, sha256=DIGESTS["index"]),
    payloads=[
        ObjectRef(object=f"payload-{'da' * 16}.safetensors", size=300, sha256=DIGESTS["payload"]),
        ObjectRef(object=f"payload-{'0f' * 16}.safetensors", size=12, sha256=DIGESTS["other"]),
    ],
    files=[CarriedFile(path="config.json", object="source/config.json", size=3, sha256="ab" * 32)],
    derived=[DerivedFile(object="config.json", size=4, sha256="cd" * 32)],
    weight_files=[WeightFile(path="model.safetensors", size=5000, metadata={"format": "pt"})],
    skipped=[Skipped(path="pytorch_model.bin", size=7, reason="a pickle")],
    counts=Counts(tensors=2, weights=100, blocks=3, payload_bytes=312),
    job={"bits": 4.0, "states": 8, "preset": "défaut", "calibrated": False, "calibration": None},
    fingerprint="fe" * 32,
)


def signed(fields: dict[str, Any]) -> bytes:
    """A manifest with these fields and a checksum that is right, as an attacker would write it."""
    blank = json.dumps({**fields, "checksum": "0" * 64}).encode()
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode())


def fields() -> dict[str, Any]:
    return copy.deepcopy(MANIFEST.model_dump(mode="json"))


def test_round_trip_keeps_every_field_and_type() -> None:
    back = Manifest.from_bytes(MANIFEST.to_bytes())
    assert back == MANIFEST
    assert {key: type(value) for key, value in back.job.items()} == {k: type(v) for k, v in MANIFEST.job.items()}
    assert Manifest.from_bytes(signed(fields())) == MANIFEST  # other white space and key order, same content


def test_bytes_are_fixed() -> None:
    data = MANIFEST.to_bytes()
    assert data == MANIFEST.to_bytes()
    assert data.isascii() and data.endswith(b"}\n")
    assert list(json.loads(data)) == sorted(json.loads(data))
    # Frozen: artifacts of earlier versions must keep comparing equal to what a later one would write.
    assert hashlib.sha256(data).hexdigest() == "8c74afceea0dc071a47c80e38b2f7e044a61015ae2b24d2b3f1c6c3156645e0c"


def set_key(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(root: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = root
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        node[int(last) if last.isdigit() else last] = value

    return change


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(root: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = root
        for part in parents:
            node = node[part]
        del node[last]

    return change


HOSTILE: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("format", set_key("format", "zarr")),
    ("format", drop("format")),
    ("version", set_key("version", 0)),
    ("version", set_key("version", "1")),
    ("version", set_key("version", True)),
    ("version", set_key("version", 1.0)),
    ("codec", drop("codec")),
    ("codec.size", drop("codec.size")),
    ("surprise", set_key("surprise", 1)),
    ("codec.uri", set_key("codec.uri", "http://")),
    ("codec.size", set_key("codec.size", -1)),
    ("codec.size", set_key("codec.size", "1000")),
    ("codec.size", set_key("codec.size", 1000.0)),
    ("codec.size", set_key("codec.size", True)),
    ("codec.size", set_key("codec.size", 1 << 63)),
    ("codec.sha256", set_key("codec.sha256", "C0" * 32)),
    ("codec.sha256", set_key("codec.sha256", "c0" * 31)),
    ("codec.sha256", set_key("codec.sha256", "c0" * 32 + "\n")),
    ("codec.object", set_key("codec.object", f"codec-{'c1' * 16}.safetensors")),
    ("index.object", set_key("index.object", f"payload-{'1d' * 16}.safetensors")),
    ("payloads.1.object", set_key("payloads.1.object", f"../payload-{'0f' * 16}.safetensors")),
    ("payloads", set_key("payloads", {})),
    *(
        ("files.0.object", set_key("files.0.object", bad))
        for bad in (
            "../x",
            "/etc/passwd",
            "a//b",
            "a/../b",
            "./a",
            "a/",
            "",
            "a\\b",
            "a\0b",
            "manifest.json",
            "x" * 2000,
        )
    ),
    ("files.0.object", set_key("files.0.object", f"codec-{'c0' * 16}.safetensors")),
    *(("files.0.path", set_key("files.0.path", bad)) for bad in ("../../.ssh/authorized_keys", "/x", "a\\..\\b", "\0")),
    ("weight_files.0.path", set_key("weight_files.0.path", "..")),
    ("weight_files.0.path", set_key("weight_files.0.path", "config.json")),
    ("weight_files.0.metadata.format", set_key("weight_files.0.metadata.format", 1)),
    ("skipped.0.path", set_key("skipped.0.path", "model.safetensors")),
    ("counts.payload_bytes", set_key("counts.payload_bytes", 313)),
    ("counts.blocks", set_key("counts.blocks", -3)),
    ("job.nested", set_key("job.nested", {"a": 1})),
    ("fingerprint", set_key("fingerprint", "no")),
]


@pytest.mark.parametrize(("key", "change"), HOSTILE)
def test_a_hostile_manifest_is_refused_by_key(key: str, change: Callable[[dict[str, Any]], None]) -> None:
    found = fields()
    change(found)
    with pytest.raises(FormatError, match=rf"^a/manifest\.json: key {re.escape(key)}\b"):
        Manifest.from_bytes(signed(found), "a/manifest.json")


def test_an_object_named_twice_is_refused() -> None:
    found = fields()
    found["payloads"][1] = found["payloads"][0]
    found["counts"]["payload_bytes"] = 600
    with pytest.raises(FormatError, match=r"payloads\.1\.object.*payloads\.0\.object"):
        Manifest.from_bytes(signed(found))


def test_a_newer_version_is_named_before_anything_else() -> None:
    with pytest.raises(VersionError, match="newer nwc"):
        Manifest.from_bytes(json.dumps({"format": "nwc-artifact", "version": 2, "all": "new"}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"format": "nwc-artifact"',
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"format": "nwc-artifact", "version": ' + b"9" * 100_000 + b"}",
        b'{"format": "nwc-artifact", "version": NaN}',
        MANIFEST.to_bytes().replace(b'"version": 1', b'"version": 1, "version": 1'),
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_no_manifest_at_all(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^here\.json: "):
        Manifest.from_bytes(data, "here.json")


def test_every_flipped_bit_is_found() -> None:
    data = MANIFEST.to_bytes()
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(FormatError):
                Manifest.from_bytes(bytes(damaged))


def test_a_change_without_a_new_checksum_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="checksum"):
        Manifest.from_bytes(MANIFEST.to_bytes().replace(b'"bits": 4.0', b'"bits": 5.0'))


def test_a_manifest_that_contradicts_itself_is_not_written() -> None:
    with pytest.raises(FormatError, match=r"counts\.payload_bytes"):
        MANIFEST.model_copy(update={"payloads": []}).to_bytes()


def test_names_come_from_content() -> None:
    assert object_name("index", b"abc") == "index-ba7816bf8f01cfea414140de5dae2223.parquet"
    assert object_name("codec", b"abc").endswith(".safetensors")
