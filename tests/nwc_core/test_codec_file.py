"""The codec as a file: it comes back the same, and nothing else passes for one."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from codec_samples import gaussian, laplace_cdf, pmf, sample_codec

from nwc_core.codec import MAX_CODEC_BYTES, Codec
from nwc_core.codec_file import build_codec_file, parse_codec_file
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import FormatError, UnknownCodecError, VersionError
from nwc_core.prior import TABLE_LEVELS, Prior

CODEC = sample_codec()


def test_the_codec_file(tmp_path: Path) -> None:
    data = CODEC.to_bytes()
    again = Codec.from_bytes(data)
    assert Codec.of(again.coder, again.provenance).to_bytes() == data
    assert again.digest == CODEC.digest
    assert again.provenance == CODEC.provenance
    path = tmp_path / "mine.safetensors"
    path.write_bytes(data)
    assert Codec.load(path).digest == CODEC.digest
    with pytest.raises(UnknownCodecError, match="default"):
        Codec.load(tmp_path / "other.safetensors")


def test_a_codec_keeps_the_bytes_that_it_was_read_from() -> None:
    """Another version of Zstandard may pack the same tables into other bytes; the digest is that of the file."""
    file = parse_codec_file(CODEC.to_bytes(), "sample")
    tables = zstandard.ZstdDecompressor().decompress(file.arrays["prior"].tobytes())
    frame = np.frombuffer(zstandard.ZstdCompressor(level=1).compress(tables), np.uint8)
    data = build_codec_file(file.architecture, file.provenance, {**file.arrays, "prior": frame})
    assert data != CODEC.to_bytes()
    codec = Codec.from_bytes(data)
    assert codec.to_bytes() == data
    assert codec.digest == hashlib.sha256(data).hexdigest()
    assert codec.prior.halves.tobytes() == CODEC.prior.halves.tobytes()
    assert Codec.of(codec.coder, codec.provenance).to_bytes() == CODEC.to_bytes()


def test_the_default_codec_loads_and_works() -> None:
    codec = Codec.load("default")
    assert codec.architecture == "nwc"
    assert len(codec.to_bytes()) < 6_000  # it is in every artifact
    assert [len(source["sha256"]) for source in codec.provenance["sources"]] == [64] * 18
    encoded = codec.encode(gaussian(128, 256), 4.0)
    assert encoded.mse is not None
    assert encoded.bits_per_weight - 0.5 * math.log2(1 / encoded.mse) < 0.16
    assert torch.equal(codec.decode(encoded), codec.decode(EncodedTensor.from_bytes(encoded.to_bytes())))


def test_another_codec_does_not_decode_it() -> None:
    encoded = Codec(CODEC.prior, [], {}).encode(gaussian(64, 64), 4.0)
    swapped = Codec(Prior.from_pmf([[pmf(laplace_cdf, level) for level in range(TABLE_LEVELS)]]), [], {})
    with pytest.raises(FormatError, match=r"layer\.3"):
        swapped.decode(encoded, where="layer.3")


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (b'"version\\":1', b'"version\\":2', VersionError, "codec version 2"),
        (b"nwc-codec", b"nwc-model", FormatError, "nwc-model"),
        (b'"nwc":', b'"nwx":', FormatError, "no codec"),
        (b'"prior"', b'"prism"', FormatError, "prism"),
        (b'"provenance"', b'"prehistory"', FormatError, "provenance among them"),
        (b"transform.1", b"transform.2", FormatError, "transform.2"),
        (b'"I16"', b'"F16"', FormatError, "F16"),
    ],
)
def test_codec_files_that_are_not(old: bytes, new: bytes, error: type[FormatError], message: str) -> None:
    data = CODEC.to_bytes()
    old, new = old.replace(b'"version', b'\\"version'), new.replace(b'"version', b'\\"version')
    assert data.count(old) == 1
    with pytest.raises(error, match=message):
        Codec.from_bytes(data.replace(old, new), "file")


def test_codec_files_cut_short_or_too_long() -> None:
    data = CODEC.to_bytes()
    for damaged in (b"", data[:7], data[:200], data[:-1], data + b"\0", data + bytes(MAX_CODEC_BYTES)):
        with pytest.raises(FormatError):
            Codec.from_bytes(damaged, "file")
