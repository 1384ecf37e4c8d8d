"""Canonical JSON that carries its own checksum: what manifests and other roots are written as.

Equal content gives equal bytes, and a flipped bit is found as surely as one in any object that the root names. The checksum
is the SHA-256 of the very bytes with zeros in its place.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from nwc_core.errors import FormatError, IntegrityError, VersionError
from nwc_core.strict_json import parse_json, shown

_NO_CHECKSUM = "0" * 64
_DIGITS = frozenset("0123456789abcdef")


def seal(fields: dict[str, Any]) -> bytes:
    """JSON with sorted keys, one space of indent, ASCII, a final newline, and the checksum under that key."""
    blank = _canonical(fields, _NO_CHECKSUM)
    return _canonical(fields, hashlib.sha256(blank).hexdigest())


def unseal(data: bytes, where: str, form: str, version: int) -> dict[str, Any]:
    """The fields without the checksum.

    Args:
        data: as `seal` gave it.
        where: names it in errors.
        form: wanted under the key "format".
        version: the newest that this program reads, of the key "version".

    Raises:
        FormatError: no JSON object, or one of another format.
        VersionError: written by a newer nwc.
        IntegrityError: the checksum does not match.
    """
    fields = parse_json(data, where)
    if not isinstance(fields, dict):
        raise FormatError(where, shown(fields), "a JSON object")
    if fields.get("format") != form:
        raise FormatError(f"{where}: key format", shown(fields.get("format")), repr(form))
    found = fields.get("version")
    if type(found) is not int:  # 1.0 and true would pass for 1
        raise FormatError(f"{where}: key version", shown(found), f"the whole number {version}")
    if found > version:
        raise VersionError(f"{where}: key version", str(found), f"at most {version}; a newer nwc may read it")
    _check(data, fields.pop("checksum", None), f"{where}: key checksum")
    return fields


def _canonical(fields: dict[str, Any], checksum: str) -> bytes:
    text = json.dumps({**fields, "checksum": checksum}, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode("ascii")


def _check(data: bytes, checksum: object, key: str) -> None:
    if not isinstance(checksum, str) or len(checksum) != 64 or not set(checksum) <= _DIGITS:
        raise FormatError(key, shown(checksum), "64 lower-case hexadecimal digits")
    found = hashlib.sha256(data.replace(checksum.encode(), _NO_CHECKSUM.encode())).hexdigest()
    if found != checksum:
        raise IntegrityError(key, f"{checksum}, while the content has {found}", "the content as it was written")
