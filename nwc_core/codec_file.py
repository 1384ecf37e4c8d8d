"""The codec as a file: named arrays and how they were trained, in safetensors, small enough to travel with every artifact.

One metadata entry, "nwc", holds JSON: `format` ("nwc-codec"), `version` and, unless it is "nwc", `architecture`. The array
`provenance` holds JSON in one Zstandard frame: how the codec was trained. Which other arrays there are is the architecture's
business: see `nwc_core.nwc_coder` and `nwc_core.reference.coder`. What is promised here: nothing larger than the architecture
allows is written or accepted, and arrays come as the header says, none of them empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError, VersionError
from nwc_core.safetensors_header import LENGTH_NBYTES, build_header, parse_header
from nwc_core.strict_json import parse_json, shown
from nwc_core.zstd_frame import pack, unpack

FORMAT, VERSION = "nwc-codec", 1
NWC, PAPER = "nwc", "nwc-paper"  # architectures
Array = npt.NDArray[np.generic]
_DTYPES = {"U8": "<u1", "U16": "<u2", "I16": "<i2", "F16": "<f2"}
# Parsed JSON may take many times its text, so the header and the provenance are bounded apart from the file.
_MAX_JSON_BYTES = 128 * 1024
_PROVENANCE = "provenance"
_ZSTD_LEVEL = 19


@dataclass(frozen=True)
class _Limits:
    """What files of one architecture may hold."""

    nbytes: int
    dtypes: tuple[str, ...]
    axes: int


_LIMITS = {
    NWC: _Limits(128 * 1024, ("U8", "U16", "I16"), 2),
    # Two networks of width 512 and depth 4 take 4.3 MB.
    PAPER: _Limits(8 << 20, ("U8", "U16", "F16"), 3),
}
MAX_CODEC_BYTES = _LIMITS[NWC].nbytes
MAX_FILE_BYTES = max(limits.nbytes for limits in _LIMITS.values())  # of any architecture


@dataclass(frozen=True, eq=False)
class CodecFile:
    """A parsed codec file; the arrays are not checked beyond their types."""

    architecture: str
    provenance: dict[str, Any]
    arrays: dict[str, Array]


def parse_codec_file(data: bytes, where: str) -> CodecFile:
    """Read a codec file; `where` names it in errors.

    Raises:
        VersionError: written by a newer nwc.
        FormatError: not a codec file, or larger than its architecture allows.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(where, MAX_FILE_BYTES)
    length = int.from_bytes(data[:LENGTH_NBYTES], "little")
    if _MAX_JSON_BYTES < length <= len(data) - LENGTH_NBYTES:
        raise FormatError(where, f"a header of {length} bytes", f"a codec's header, {_MAX_JSON_BYTES} at most")
    header = parse_header(lambda start, stop: data[start:stop], len(data), where)
    architecture = _architecture(header.metadata, where)
    limits = _LIMITS[architecture]
    if len(data) > limits.nbytes:
        raise _too_large(where, limits.nbytes)
    arrays: dict[str, Array] = {}
    for name, info in header.tensors.items():
        if info.dtype.name not in limits.dtypes:
            wanted = f"{', '.join(limits.dtypes[:-1])} or {limits.dtypes[-1]}"
            raise FormatError(f"{where}, {name}", f"dtype {info.dtype.name}", wanted)
        # An array without elements may claim dimensions that numpy cannot hold.
        if len(info.shape) > limits.axes or info.start == info.stop:
            wanted = f"{' or '.join(('one', 'two', 'three')[: limits.axes])} axes, not empty"
            raise FormatError(f"{where}, {name}", f"shape {shown(list(info.shape))}", wanted)
        arrays[name] = np.frombuffer(data[info.start : info.stop], _DTYPES[info.dtype.name]).reshape(info.shape)
    if _PROVENANCE not in arrays:
        raise FormatError(where, f"tensors {', '.join(arrays) or 'none'}", f"{_PROVENANCE} among them")
    return CodecFile(architecture, _provenance(arrays.pop(_PROVENANCE), f"{where}, {_PROVENANCE}"), arrays)


def build_codec_file(architecture: str, provenance: dict[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """The file; equal arguments, in equal order, give equal bytes with one version of Zstandard.

    Raises:
        FormatError: it would be larger than its architecture allows.
    """
    about: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    if architecture != NWC:
        about["architecture"] = architecture
    text = json.dumps(provenance, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > _MAX_JSON_BYTES:
        raise FormatError("codec", f"a provenance of {len(text)} bytes", f"at most {_MAX_JSON_BYTES}")
    arrays = {**arrays, _PROVENANCE: np.frombuffer(pack(text, _ZSTD_LEVEL), np.uint8)}
    names = {np.dtype(code): name for name, code in _DTYPES.items()}
    header = build_header(
        [(name, names[array.dtype.newbyteorder("<")], array.shape) for name, array in arrays.items()],
        {"nwc": json.dumps(about, sort_keys=True, separators=(",", ":"))},
    )
    if len(header) - LENGTH_NBYTES > _MAX_JSON_BYTES:
        raise FormatError("codec", f"a header of {len(header)} bytes", f"at most {_MAX_JSON_BYTES}")
    data = header + b"".join(
        array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in arrays.values()
    )
    if len(data) > _LIMITS[architecture].nbytes:
        raise FormatError("codec", f"{len(data)} bytes", f"at most {_LIMITS[architecture].nbytes}")
    return data


def check_file_size(nbytes: int, where: str) -> None:
    """Refuse what cannot be a codec before it is fetched."""
    if nbytes > MAX_FILE_BYTES:
        raise FormatError(where, f"{nbytes} bytes", f"a codec of at most {MAX_FILE_BYTES} bytes")


def _too_large(where: str, limit: int) -> FormatError:
    return FormatError(where, f"more than {limit} bytes", f"a codec of at most {limit} bytes")


def _provenance(packed: Array, where: str) -> dict[str, Any]:
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise FormatError(where, f"{packed.dtype} {list(packed.shape)}", "uint8, one axis")
    provenance = parse_json(unpack(packed.tobytes(), _MAX_JSON_BYTES, where), where)
    if not isinstance(provenance, dict):
        raise FormatError(where, shown(provenance), "a JSON object")
    return provenance


def _architecture(metadata: dict[str, str], where: str) -> str:
    """The architecture, once the metadata says that this is a codec of a version that we read."""
    if "nwc" not in metadata:
        raise FormatError(where, "a safetensors file that is no codec", f"metadata nwc with format {FORMAT}")
    about = parse_json(metadata["nwc"].encode(), f"{where}, metadata nwc")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FormatError(f"{where}, metadata nwc", shown(about), f"an object with format {FORMAT}")
    version = about.get("version")
    if type(version) is not int or version < 1:  # True would pass for 1
        raise FormatError(f"{where}, metadata nwc", f"version {shown(version)}", f"a whole number, {VERSION} at most")
    if version > VERSION:
        raise VersionError(where, f"codec version {version}", f"at most {VERSION}; a newer nwc may read it")
    architecture = about.get("architecture", NWC)
    if not isinstance(architecture, str) or architecture not in _LIMITS:
        raise FormatError(
            f"{where}, metadata nwc", f"architecture {shown(architecture)}", f"one of {', '.join(_LIMITS)}"
        )
    return architecture
