"""Hostile codec files: tables that are none, transforms that are none, metadata that lies."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from case import MEGABYTE, Case
from codec_samples import sample_codec

from nwc_core.codec import Codec
from nwc_core.codec_file import MAX_CODEC_BYTES, MAX_FILE_BYTES
from nwc_core.errors import FormatError, VersionError
from nwc_core.prior import TABLE_LEVELS
from nwc_core.safetensors_header import build_header, parse_header

Arrays = dict[str, tuple[str, tuple[int, ...], bytes]]
ABOUT = {"format": "nwc-codec", "version": 1, "provenance": {}}
_UNIT = 1 << 14


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


def with_frequency(at: int, value: int) -> Callable[[Arrays], object]:
    def change(arrays: Arrays) -> None:
        dtype, shape, raw = arrays["prior.freq"]
        numbers = np.frombuffer(raw, "<u2").copy()
        numbers[at] = value
        arrays["prior.freq"] = (dtype, shape, numbers.tobytes())

    return change


def with_width(at: int, value: int) -> Callable[[Arrays], object]:
    def change(arrays: Arrays) -> None:
        dtype, shape, raw = arrays["prior.width"]
        arrays["prior.width"] = (dtype, shape, raw[:at] + bytes([value]) + raw[at + 1 :])

    return change


def _basis(g: int) -> np.ndarray:
    return (np.eye(g) * _UNIT).astype("<i2")


def _many_transforms(arrays: Arrays) -> None:
    for number in range(2, 301):
        with_array(f"transform.{number}", _basis(2), "I16")(arrays)


def _widest_tables(arrays: Arrays) -> None:
    """Half widths of 255 with as many numbers as they ask for."""
    widths = np.full((1, TABLE_LEVELS), 255, np.uint8)
    with_array("prior.width", widths, "U8")(arrays)
    with_array("prior.freq", np.ones(2 * 257 * TABLE_LEVELS, "<u2"), "U16")(arrays)


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
    ("longer than its architecture allows", lambda: codec(with_array("prior.freq", np.ones(MAX_CODEC_BYTES, "<u2"), "U16")),
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
    ("metadata with NaN", lambda: _with_metadata('{"format":"nwc-codec","version":1,"provenance":{"a":NaN}}'), "NaN"),
    ("another format of 100,000 letters", lambda: _about(format="x" * 100_000), "found {'format': 'xxx"),
    ("version true", lambda: _about(version=True), "version True"),
    ("version 1.0", lambda: _about(version=1.0), r"version 1\.0"),
    ("version -1", lambda: _about(version=-1), "version -1"),
    ("version of 5,000 digits", lambda: _with_metadata('{"format":"nwc-codec","version":' + "9" * 5000 + "}"), "version inf"),
    ("provenance of a list", lambda: _about(provenance=[1]), r"provenance \[1\]"),
    ("no tables", lambda: codec(lambda arrays: arrays.pop("prior.freq")), "found tensors prior.width"),
    ("a tensor too many", lambda: codec(with_array("secret", np.zeros(3, np.uint8), "U8")), "secret"),
    ("floats where integers belong", lambda: codec(with_array("transform.1", np.eye(9, dtype="<f4") * np.nan, "F32")),
     "dtype F32"),
    ("widths of rank 100", lambda: codec(with_shape("prior.width", (1,) * 99 + (2 * TABLE_LEVELS,))), "shape"),
    ("an empty array of 2^63 columns", lambda: codec(with_array_claim("transform.2", (0, 1 << 63))), "shape"),
    ("widths of one axis", lambda: codec(with_shape("prior.width", (2 * TABLE_LEVELS,))), "prior.width: found uint8"),
    ("widths of other levels", lambda: codec(with_shape("prior.width", (4, TABLE_LEVELS // 2))), "prior.width: found uint8"),
    ("frequencies of two axes", lambda: codec(_square_frequencies), "uint16, one axis"),
    ("frequencies as bytes", lambda: codec(_frequencies_as_bytes), "prior.freq: found uint8"),
    ("fewer frequencies than the widths ask for", lambda: codec(with_width(0, 126)), "numbers; wanted"),
    ("more frequencies than the widths ask for", lambda: codec(with_width(70, 0)), "numbers; wanted"),
    ("widths too large for a byte of symbols", lambda: codec(_widest_tables), "half width 255"),
    ("a table that does not sum up", lambda: codec(with_frequency(0, 9)), "sum .*wanted sum 16384"),
    ("a table that sums up past 16 bits", lambda: codec(with_frequency(0, 65535)), "wanted sum 16384"),
    ("a frequency of zero", lambda: codec(_zero_frequency), "least 0"),
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


def _square_frequencies(arrays: Arrays) -> None:
    dtype, (size,), raw = arrays["prior.freq"]
    arrays["prior.freq"] = (dtype, (1, size), raw)


def _frequencies_as_bytes(arrays: Arrays) -> None:
    _, (size,), raw = arrays["prior.freq"]
    arrays["prior.freq"] = ("U8", (2 * size,), raw)


def _zero_frequency(arrays: Arrays) -> None:
    """What a zero lacks in the first table goes to its neighbour: the sum is right."""
    dtype, shape, raw = arrays["prior.freq"]
    numbers = np.frombuffer(raw, "<u2").copy()
    numbers[0] += 2 * numbers[1]  # symbols k = 1 and -1 share one number
    numbers[1] = 0
    arrays["prior.freq"] = (dtype, shape, numbers.tobytes())


# A sound codec takes 5 MB: the tables of all levels, expanded.
CASES = [Case(name, make, read, words, memory=16 * MEGABYTE) for name, make, words in _ROWS]
CASES += [
    Case("a newer version", lambda: _about(version=2), read, "codec version 2", VersionError),
    Case("a header of 2^62 bytes", lambda: (1 << 62).to_bytes(8, "little") + b"{}", read, "header of", FormatError),
]
