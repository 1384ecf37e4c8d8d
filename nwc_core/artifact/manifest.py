"""manifest.json: the root of an artifact. Its presence is the commit; it names every other object.

It depends on nothing but its input (no time, host or URI), its JSON is canonical, and it carries its own checksum, so
that a flipped bit in it is found as surely as one in any object that it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from pydantic import ValidationError

from nwc_core.artifact.objects import ObjectKind, ObjectRef, Record, RelativeKey, Sha256Hex, Size, name_from_digest
from nwc_core.errors import FormatError
from nwc_core.sealed_json import seal, unseal
from nwc_core.strict_json import SHOWN, shown

MANIFEST_KEY = "manifest.json"
FORMAT: Final = "nwc-artifact"
VERSION: Final = 1
# A payload takes about 200 bytes here, so this is 300,000 of them: far above any artifact, and far below what would
# hurt a reader who is handed something else under that name.
MAX_MANIFEST_BYTES = 64 << 20

JobValue = str | int | float | bool | None


class CarriedFile(Record):
    """A file of the checkpoint that is stored as it was: `path` in the checkpoint, `object` in the artifact."""

    path: RelativeKey
    object: RelativeKey
    size: Size
    sha256: Sha256Hex


class DerivedFile(Record):
    """A file made for readers of the artifact (config.json for transformers); not part of the checkpoint."""

    object: RelativeKey
    size: Size
    sha256: Sha256Hex


class WeightFile(Record):
    """A weight file of the checkpoint, from whose tensors it can be rebuilt.

    Attributes:
        path: relative to the checkpoint.
        size: bytes of the original file; its tensors together are no larger.
        metadata: the safetensors metadata of its header.
    """

    path: RelativeKey
    size: Size
    metadata: dict[str, str]


class Skipped(Record):
    """A file of the checkpoint that the artifact does not hold, and why."""

    path: RelativeKey
    size: Size
    reason: str


class Counts(Record):
    """Totals: tensors, weights (elements of all tensors), blocks, and bytes of all payload objects."""

    tensors: Size
    weights: Size
    blocks: Size
    payload_bytes: Size


class Base(Record):
    """Another artifact, whose tensors some of this one's are coded against: see `nwc_core.delta`.

    Attributes:
        manifest_sha256: digest of its manifest.json, which names all that it holds by digest.
        location: where it was when this artifact was made: relative to this one, or a URI in another place. A hint: what
            it names is compared with the digest.
    """

    manifest_sha256: Sha256Hex
    location: str


class Manifest(Record):
    """All of manifest.json except its checksum.

    Attributes:
        codec, index, payloads: the objects with coded weights; keys as in `objects.object_name`.
        files: the checkpoint's other files.
        derived: files at the root that other tools insist on.
        weight_files: the original shard layout.
        skipped: files left out.
        counts: totals, equal to what the index and the payloads hold.
        job: the options that determine the bytes of the artifact.
        fingerprint: SHA-256 (hex) of everything that determines the bytes, given by the writer.
        base: what deltas are added to; None, and absent in JSON, if nothing needs one.
    """

    format: Literal["nwc-artifact"] = FORMAT
    version: Literal[1] = VERSION
    codec: ObjectRef
    index: ObjectRef
    payloads: list[ObjectRef]
    files: list[CarriedFile]
    derived: list[DerivedFile]
    weight_files: list[WeightFile]
    skipped: list[Skipped]
    counts: Counts
    job: dict[str, JobValue]
    fingerprint: Sha256Hex
    base: Base | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON (sorted keys, one space of indent, ASCII, a final newline) with the checksum filled in.

        Raises:
            FormatError: the manifest contradicts itself; see `from_bytes`.
        """
        _check_consistency(self, MANIFEST_KEY)
        data = seal(self.model_dump(mode="json", exclude=None if self.base else {"base"}))
        if len(data) > MAX_MANIFEST_BYTES:  # no reader would open it
            raise FormatError(MANIFEST_KEY, f"{len(data)} bytes", f"at most {MAX_MANIFEST_BYTES}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes, where: str = MANIFEST_KEY) -> Manifest:
        """Read a manifest; `where` names it in errors.

        Raises:
            VersionError: written by a newer nwc.
            IntegrityError: the checksum does not match.
            FormatError: not a manifest, or one that contradicts itself; names the key.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise FormatError(where, f"{len(data)} bytes", f"at most {MAX_MANIFEST_BYTES}")
        fields = unseal(data, where, FORMAT, VERSION)
        try:
            manifest = cls.model_validate(fields)
        except ValidationError as error:
            raise _as_format_error(error, where) from None
        _check_consistency(manifest, where)
        return manifest


def _keys(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every object key of the artifact, with the manifest key that names it."""
    yield "the manifest itself", MANIFEST_KEY
    yield "codec.object", manifest.codec.object
    yield "index.object", manifest.index.object
    for i, payload in enumerate(manifest.payloads):
        yield f"payloads.{i}.object", payload.object
    for i, file in enumerate(manifest.files):
        yield f"files.{i}.object", file.object
    for i, made in enumerate(manifest.derived):
        yield f"derived.{i}.object", made.object


def _paths(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every path of the original checkpoint, with the manifest key that names it."""
    for i, carried in enumerate(manifest.files):
        yield f"files.{i}.path", carried.path
    for i, weights in enumerate(manifest.weight_files):
        yield f"weight_files.{i}.path", weights.path
    for i, skipped in enumerate(manifest.skipped):
        yield f"skipped.{i}.path", skipped.path


def _check_consistency(manifest: Manifest, where: str) -> None:
    refs: list[tuple[str, ObjectKind, ObjectRef]] = [
        ("codec", "codec", manifest.codec),
        ("index", "index", manifest.index),
        *((f"payloads.{i}", "payload", ref) for i, ref in enumerate(manifest.payloads)),
    ]
    for key, kind, ref in refs:
        wanted = name_from_digest(kind, ref.sha256)
        if ref.object != wanted:
            raise FormatError(f"{where}: key {key}.object", repr(ref.object), f"{wanted!r}, which its sha256 gives")
    for named in (_keys(manifest), _paths(manifest)):
        seen: dict[str, str] = {}
        for key, name in named:
            if name in seen:
                raise FormatError(f"{where}: key {key}", f"{name!r}, named by {seen[name]} too", "each name once")
            seen[name] = key
    total = sum(ref.size for ref in manifest.payloads)
    if manifest.counts.payload_bytes != total:
        raise FormatError(f"{where}: key counts.payload_bytes", str(manifest.counts.payload_bytes), f"{total}, the sum")


def _as_format_error(error: ValidationError, where: str) -> FormatError:
    """The first complaint of pydantic, in our terms."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    found = "nothing" if first["type"] == "missing" else shown(first["input"])
    wanted = {"missing": "this key", "extra_forbidden": "no such key"}.get(first["type"], first["msg"])
    return FormatError(f"{where}: key {key[:SHOWN]}", found, wanted.removeprefix("Value error, "))
