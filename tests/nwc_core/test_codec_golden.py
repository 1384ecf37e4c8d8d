"""Streams written once are decoded to the same bits for ever, by every version and on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from codec_samples import bits_of, gaussian

from nwc_core.codec import Codec
from nwc_core.encoded import EncodedTensor
from nwc_core.intvector import read_segment, read_segment_sizes
from nwc_core.matrices import Layout
from nwc_core.matrix_stream import MatrixHeader
from nwc_core.wire import ByteReader

FOLDER = Path(__file__).parent / "golden"
CASES = json.loads((FOLDER / "decoded.json").read_text())
CODEC_SHA256 = "0f12f2b1c5a6730978948a41cf18010f73d65193ebac121e80055ed7a414ece1"
ARRAYS_SHA256 = (
    "bad08a7dd11c6f20efb070f0fc3a035271a259ec4522830c96e6067c20ce6cb1"  # half widths, frequencies, transform
)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(FOLDER / "codec.safetensors")


def test_the_codec_file_reads_and_writes_as_it_did(codec: Codec) -> None:
    data = (FOLDER / "codec.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == CODEC_SHA256
    assert Codec.of(codec.coder, codec.provenance).to_bytes() == data
    assert codec.digest == CODEC_SHA256
    held = hashlib.sha256()
    for array in (codec.prior.half_width, codec.prior.halves, *codec.transforms):
        held.update(array.tobytes())
    assert held.hexdigest() == ARRAYS_SHA256


def test_every_file_has_its_digest() -> None:
    assert {path.stem for path in FOLDER.glob("*.nwc")} == set(CASES)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 100_000


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", sorted(CASES))
def test_decoding_never_changes(codec: Codec, name: str, threads: int) -> None:
    case, raw = CASES[name], (FOLDER / f"{name}.nwc").read_bytes()
    encoded = EncodedTensor.from_bytes(raw, name)
    assert (encoded.coder, encoded.dtype.name, list(encoded.shape)) == (case["coder"], case["dtype"], case["shape"])
    assert encoded.to_bytes() == raw
    decoded = codec.decode(encoded, threads=threads, where=name)
    assert decoded.dtype == encoded.dtype.torch
    assert hashlib.sha256(bits_of(decoded)).hexdigest() == case["sha256"]


def _headers(codec: Codec) -> dict[str, tuple[Layout, list[MatrixHeader], int, int]]:
    """(layout, headers, segments, escapes) of the nwc-coded cases."""
    found = {}
    for name, case in CASES.items():
        if case["coder"] != "nwc":
            continue
        encoded = EncodedTensor.from_bytes((FOLDER / f"{name}.nwc").read_bytes(), name)
        reader = ByteReader(encoded.body, name)
        layout = Layout.read(reader, len(encoded.shape))
        count, m, n = layout.matrix_shape(encoded.shape)
        headers, segments, escapes = [], 0, 0
        for _ in range(count):
            body = ByteReader(reader.raw(reader.varint()), name)
            header = MatrixHeader.read(body, m, n, codec.prior, codec.transforms)
            inner = header.m if header.by_columns else header.n
            sizes = [read_segment_sizes(body, (last - first) * inner) for first, last in header.segments()]
            segments += len(sizes)
            escapes += sum(read_segment(body, header.lanes, *size).escapes.size for size in sizes)
            headers.append(header)
        found[name] = layout, headers, segments, escapes
    return found


def test_the_files_use_everything_that_the_format_has(codec: Codec) -> None:
    """So that a file that is made anew cannot quietly lose what it was there for."""
    found = _headers(codec)
    headers = [header for _, of_one, _, _ in found.values() for header in of_one]
    assert {header.n_states for header in headers} == {1, 4, 8, 16, 32, 64, 128, 256}
    assert {header.shape for header in headers} == {0, 1}
    assert {header.by_columns for header in headers} == {False, True}
    assert {header.transform for header in headers} == {0, 1}
    assert {header.lanes for header in headers} >= {1, 3, 7, 32}
    assert {header.absolute for header in headers} >= {(False, False), (False, True), (True, False)}
    assert any(header.by_columns and header.lines % header.lanes for header in headers)
    assert any(header.row_exponent.any() for header in headers)
    assert any(header.transform and header.column_exponent.any() for header in headers)
    assert any(header.scales.row_shift and header.scales.rows.any() for header in headers)
    assert any(header.scales.column_shift and header.scales.columns.any() for header in headers)
    assert any(segments > len(of_one) for _, of_one, segments, _ in found.values())
    assert found["escapes"][3] > 0
    assert found["raw-bits"][1][0].levels(0, 1).min() > 64
    assert {len(of_one) for _, of_one, _, _ in found.values()} == {1, 3}
    assert any(layout.order != tuple(range(len(layout.order))) for layout, _, _, _ in found.values())
    assert {case["coder"] for case in CASES.values()} == {"raw", "zstd", "nwc", "float"}


def test_decoded_values_are_near_their_originals(codec: Codec) -> None:
    """The digests pin what was decoded; this, that it was right."""
    encoded = EncodedTensor.from_bytes((FOLDER / "f32-default.nwc").read_bytes())
    error = codec.decode(encoded) - gaussian(64, 48)
    assert float(error.square().mean()) < 0.006
    assert torch.equal(codec.decode(EncodedTensor.from_bytes((FOLDER / "scalar.nwc").read_bytes())), torch.tensor(0.0))
