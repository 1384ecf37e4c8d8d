"""Objects of an artifact: names that are derived from content, and references that say what must be found there.

A name is ``<kind>-<first 32 hex digits of the SHA-256>.<extension>``, so two writers can only ever put the same bytes
under the same name, and writing before the commit damages nobody.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nwc_core.errors import IntegrityError

ObjectKind = Literal["index", "payload", "codec"]

EXTENSIONS: dict[ObjectKind, str] = {"index": "parquet", "payload": "safetensors", "codec": "safetensors"}
# 128 bits: no accidental collision, and keys stay readable. The full digest is in the manifest.
_NAME_DIGITS = 32
_MAX_KEY = 1024  # what S3 allows


def check_key(key: str) -> str:
    """The key itself if it is a plain relative one, safe to join to a root.

    Raises:
        ValueError: absolute, empty parts, "." or "..", a backslash, NUL, or too long.
    """
    if not key or len(key.encode(errors="replace")) > _MAX_KEY:
        raise ValueError(f"must have 1 to {_MAX_KEY} bytes")
    if "\\" in key or "\0" in key:
        raise ValueError("must hold no backslash and no NUL")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError('must be relative, without empty, "." or ".." parts')
    return key


RelativeKey = Annotated[str, AfterValidator(check_key)]
Sha256Hex = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Size = Annotated[int, Field(ge=0, lt=1 << 63)]


class Record(BaseModel):
    """Base of everything in the manifest: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ObjectRef(Record):
    """One stored object: its key in the artifact, its size in bytes, and the SHA-256 of its bytes."""

    object: RelativeKey
    size: Size
    sha256: Sha256Hex


def name_from_digest(kind: ObjectKind, sha256: str) -> str:
    """The key of an object of this kind with this SHA-256 (hex)."""
    return f"{kind}-{sha256[:_NAME_DIGITS]}.{EXTENSIONS[kind]}"


def object_name(kind: ObjectKind, data: bytes | memoryview) -> str:
    """The key under which these bytes are stored."""
    return name_from_digest(kind, hashlib.sha256(data).hexdigest())


def reference(kind: ObjectKind, data: bytes | memoryview) -> ObjectRef:
    """The reference to these bytes, stored under `object_name`."""
    sha256 = hashlib.sha256(data).hexdigest()
    return ObjectRef(object=name_from_digest(kind, sha256), size=memoryview(data).nbytes, sha256=sha256)


def check_object(data: bytes | memoryview, size: int, sha256: str, where: str) -> None:
    """Compare bytes that were read with what their reference promises.

    Raises:
        IntegrityError: another size, or another digest.
    """
    if len(data) != size:
        raise IntegrityError(where, f"{len(data)} bytes", f"{size} bytes")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise IntegrityError(where, f"SHA-256 {found}", sha256)
