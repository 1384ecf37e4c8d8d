"""Hostile codec files: tables that are none, transforms that are none, metadata that lies."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import zstandard
from case import MEGABYTE, Case
from codec_samples import sample_codec

from nwc_core.codec import Codec
from nwc_core.codec_file import MAX_CODEC_BYTES, MAX_FILE_BYTES
from nwc_core.errors import FormatError, VersionError
from nwc_core.prior import TABLE_LEVELS
from nwc_core.safetensors_header import build_header, parse_header

Arrays = dict[str, tuple[str, tuple[int, ...], bytes]]
ABOUT = {"format": "nwc-codec", "version": 1}
_UNIT = 1 << 14
_FIRST = 1 + 2 * TABLE_LEVELS  # byte of the first number: the sample has two shapes


def read(data: object) -> object:
    assert isinstance(data, bytes)
    return Codec.from_bytes(data, "mine.safetensors")


def codec(change: Callable[[Arrays], object] = lambda arrays: None, about: object = ABOUT) -> bytes:
    """The sample codec's file with its arrays changed, or its metadata (text is taken as it is)."""
    data = sample_codec().to_bytes()
    header = parse_header(lambda start, stop: data[start:stop], len(data), "sample")
    arrays = {name: (t.dtype.name, t.shape, data[t.start : t.stop]) for name, t in header.tensors.items()}
    change(arrays)
    text = about if isinstance(about, str) else json.dumps(about)
    start = build_header([(name, dtype, shape) for name, (dtype, shape, _) in arrays.items()], {"nwc": text})
    return start + b"".join(raw for _, _, raw in arrays.values())


def with_array(name: str, array: np.ndarray, dtype: str) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: (dtype, array.shape, array.tobytes())})


def with_shape(name: str, shape: tuple[int, ...]) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: (arrays[name][0], shape, arrays[name][2])})


def frame(content: bytes) -> np.ndarray:
    return np.frombuffer(zstandard.ZstdCompressor().compress(content), np.uint8)


def bomb(claimed: int) -> np.ndarray:
    """A Zstandard frame that claims a content size and holds one empty block."""
    return np.frombuffer(b"\x28\xb5\x2f\xfd\xe0" + claimed.to_bytes(8, "little") + b"\x01\0\0", np.uint8)


def with_provenance(text: bytes) -> Callable[[Arrays], object]:
    return with_array("provenance", frame(text), "U8")


def _tables(change: Callable[[bytearray], object]) -> Callable[[Arrays], object]:
    """The packed tables with what they unpack to changed: shapes, half widths, low bytes and high bytes of numbers."""

    def changed(arrays: Arrays) -> None:
        content = bytearray(zstandard.ZstdDecompressor().decompress(arrays["prior"][2]))
        change(content)
        with_array("prior", frame(bytes(content)), "U8")(arrays)

    return changed


def _set(at: int, value: int) -> Callable[[Arrays], object]:
    return _tables(lambda content: content.__setitem__(at, value))


def _same_numbers(low: int, high: int) -> Callable[[Arrays], object]:
    def change(content: bytearray) -> None:
        count = (len(content) - _FIRST) // 2
        content[_FIRST:] = bytes([low]) * count + bytes([high]) * count

    return _tables(change)


def _widest(shapes: int, numbers: int) -> Callable[[Arrays], object]:
    """Half widths of 126 everywhere, and zeros."""
    widths = (b"\x7e" + bytes(TABLE_LEVELS - 1)) * shapes
    return with_array("prior", frame(bytes([shapes]) + widths + bytes(2 * numbers)), "U8")


def _basis(g: int) -> np.ndarray:
    return (np.eye(g) * _UNIT).astype("<i2")


def _many_transforms(arrays: Arrays) -> None:
    for number in range(2, 301):
        with_array(f"transform.{number}", _basis(2), "I16")(arrays)


def _wide_once(arrays: Arrays) -> None:
    """As many gaps in the tables as there can be: where memory is taken for the widest, most of it is for nothing."""
    widths = (bytes(TABLE_LEVELS - 1) + b"\x7e") * 32
    low = bytearray(2 * 32 * TABLE_LEVELS + 2 * 32 * 126)
    high = bytearray(len(low))
    high[-1] = 128  # 2^14 more at the last point
    with_array("prior", frame(b"\x20" + widths + low + high), "U8")(arrays)


def _about(**fields: object) -> bytes:
    return codec(about={**ABOUT, **fields})


def _with_metadata(text: str) -> bytes:
    return codec(about=text)


def _without_codec_metadata() -> bytes:
    return build_header([], {"format": "pt"})


Row = tuple[str, Callable[[], bytes], str]
_ROWS: list[Row] = [
    ("no codec", _without_codec_metadata, "no codec"),
    ("longer than any codec", lambda: codec() + bytes(MAX_FILE_BYTES), "more than 8388608 bytes"),
    ("longer than its architecture allows", lambda: codec(with_array("prior", np.ones(MAX_CODEC_BYTES, np.uint8), "U8")),
     "more than 131072 bytes"),
    ("rest behind the last tensor", lambda: codec() + bytes(MAX_CODEC_BYTES), "where the last tensor ends"),
    ("a header of 8 MB", lambda: _with_metadata("[" * 8_000_000), "a header of"),
    ("an unknown architecture", lambda: _about(architecture="x" * 100_000), "architecture 'xxx"),
    ("an architecture of a list", lambda: _about(architecture=[]), r"architecture \[\]; wanted one of nwc, nwc-paper"),
    ("one architecture's tensors under the other's name", lambda: _about(architecture="nwc-paper"), "dtype I16"),
    ("metadata that is no JSON", lambda: _with_metadata("{"), "metadata nwc: found an error"),
    ("metadata of a list", lambda: _with_metadata("[]"), r"found \[\]"),
    ("metadata nested 20,000 deep", lambda: _with_metadata("[" * 20_000), "nested"),
    ("metadata with a version twice", lambda: _with_metadata('{"format":"nwc-codec","version":2,"version":1}'), "twice"),
    ("metadata with NaN", lambda: _with_metadata('{"format":"nwc-codec","version":1,"a":NaN}'), "NaN"),
    ("another format of 100,000 letters", lambda: _about(format="x" * 100_000), "found {'format': 'xxx"),
    ("version true", lambda: _about(version=True), "version True"),
    ("version 1.0", lambda: _about(version=1.0), r"version 1\.0"),
    ("version -1", lambda: _about(version=-1), "version -1"),
    ("version of 5,000 digits", lambda: _with_metadata('{"format":"nwc-codec","version":' + "9" * 5000 + "}"), "version inf"),
    ("no provenance", lambda: codec(lambda arrays: arrays.pop("provenance")), "wanted provenance among them"),
    ("provenance of a list", lambda: codec(with_provenance(b"[1]")), r"provenance: found \[1\]; wanted a JSON object"),
    ("provenance that is no JSON", lambda: codec(with_provenance(b"{")), "provenance: found an error"),
    ("provenance of nothing", lambda: codec(with_provenance(b"")), "Zstandard frame of 0"),
    ("provenance nested 20,000 deep", lambda: codec(with_provenance(b"[" * 20_000)), "provenance: found JSON nested"),
    ("provenance of 64 MB in 6 KB", lambda: codec(with_provenance(b"[" + b" " * (64 << 20) + b"]")), "at most 131072 bytes"),
    ("provenance that claims 2^62 bytes", lambda: codec(with_array("provenance", bomb(1 << 62), "U8")), "at most 131072 bytes"),
    ("provenance that claims too little", lambda: codec(with_array("provenance", bomb(2), "U8")), "provenance: found"),
    ("provenance as plain text", lambda: codec(with_array("provenance", np.frombuffer(b"{}", np.uint8), "U8")),
     "provenance: found a damaged Zstandard frame"),
    ("provenance of two axes", lambda: codec(with_array("provenance", np.zeros((2, 2), np.uint8), "U8")),
     r"provenance: found uint8 \[2, 2\]"),
    ("provenance in 16 bits", lambda: codec(with_array("provenance", np.zeros(2, "<u2"), "U16")), "provenance: found uint16"),
    ("no tables", lambda: codec(lambda arrays: arrays.pop("prior")), "found tensors transform.1; wanted prior"),
    ("a tensor too many", lambda: codec(with_array("secret", np.zeros(3, np.uint8), "U8")), "secret"),
    ("floats where integers belong", lambda: codec(with_array("transform.1", np.eye(9, dtype="<f4") * np.nan, "F32")),
     "dtype F32"),
    ("tables of rank 61", lambda: codec(with_array("prior", np.zeros((1,) * 60 + (8,), np.uint8), "U8")), "shape"),
    ("an empty array of 2^63 columns", lambda: codec(with_array_claim("transform.2", (0, 1 << 63))), "shape"),
    ("tables of two axes", lambda: codec(with_array("prior", np.zeros((2, 2), np.uint8), "U8")), "prior: found uint8"),
    ("tables in 16 bits", lambda: codec(with_array("prior", np.zeros(64, "<u2"), "U16")), "prior: found uint16"),
    ("tables that are not packed", lambda: codec(with_array("prior", np.zeros(64, np.uint8), "U8")), "prior: found a damaged"),
    ("tables that claim 2^62 bytes", lambda: codec(with_array("prior", bomb(1 << 62), "U8")), "at most 133121 bytes"),
    ("tables that claim 133,121 bytes", lambda: codec(with_array("prior", bomb(133_121), "U8")), "prior: found"),
    ("tables of 64 MB in 6 KB", lambda: codec(with_array("prior", frame(bytes(64 << 20)), "U8")), "at most 133121 bytes"),
    ("no bytes of tables", lambda: codec(with_array("prior", frame(b""), "U8")), "Zstandard frame of 0"),
    ("no shapes", lambda: codec(_set(0, 0)), "for 0 shapes"),
    ("more shapes than there are", lambda: codec(_set(0, 255)), "for 255 shapes"),
    ("fewer numbers than the widths ask for", lambda: codec(_tables(lambda content: content.pop())), "bytes of numbers"),
    ("more numbers than the widths ask for", lambda: codec(_tables(lambda content: content.append(0))), "bytes of numbers"),
    ("wider tables than there are numbers for", lambda: codec(_set(_FIRST - 1, 9)), "bytes of numbers; wanted"),
    ("widths too large for a byte of symbols", lambda: codec(_set(1, 200)), "half width 2"),
    ("32 shapes of widest tables", lambda: codec(_widest(32, 32 * 2 * 127 * TABLE_LEVELS)), "at most 133121"),
    ("widths that ask for 1 MB", lambda: codec(_widest(32, 0)), "520192 numbers; wanted at most 65536"),
    ("one wide table in each of 32 shapes", lambda: codec(_wide_once), "level 63: found a frequency below 1"),
    ("numbers that are all as large as can be", lambda: codec(_same_numbers(254, 255)), "level 0: found a frequency below 1"),
    ("numbers that are all as small as can be", lambda: codec(_same_numbers(255, 255)), "level 0: found a frequency below 1"),
    ("an odd escape", lambda: codec(_set(_FIRST + 1, 2)), "mine.safetensors, prior, shape 0, level 0: .* sum"),
    ("an escape of zero", lambda: codec(_set(_FIRST, 3)), "shape 0, level 0: found a frequency below 1"),
    ("a transform of no size", lambda: codec(with_shape("transform.1", (81,))), "transform.1: found int16"),
    ("a transform that is not square", lambda: codec(with_shape("transform.1", (3, 27))), "transform.1: found int16"),
    ("a transform of 100 x 100", lambda: codec(with_array("transform.1", _basis(100), "I16")), r"\(100, 100\)"),
    ("a transform of 1 x 1", lambda: codec(with_array("transform.1", _basis(1), "I16")), r"\(1, 1\)"),
    ("a transform of zeros", lambda: codec(with_array("transform.1", np.zeros((9, 9), "<i2"), "I16")), "orthonormal"),
    ("a transform of extremes", lambda: codec(with_array("transform.1", np.full((9, 9), -(1 << 15), "<i2"), "I16")),
     "orthonormal"),
    ("300 transforms", lambda: codec(_many_transforms), "300 transforms; wanted at most 255"),
    ("transforms with a gap", lambda: codec(with_array("transform.3", _basis(2), "I16")), "transform.3"),
]  # fmt: skip


def with_array_claim(name: str, shape: tuple[int, ...]) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: ("I16", shape, b"")})


# The gaps of 32 shapes with one wide table each take 10 MB; all tables of a sound codec, once expanded, 5 MB.
CASES = [Case(name, make, read, words, memory=16 * MEGABYTE) for name, make, words in _ROWS]
CASES += [
    Case("a newer version", lambda: _about(version=2), read, "codec version 2", VersionError),
    Case("a header of 2^62 bytes", lambda: (1 << 62).to_bytes(8, "little") + b"{}", read, "header of", FormatError),
]
