"""The reference codec as a file: it comes back the same, and hostile ones are refused with a clear error."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from reference_samples import SOURCES, reference_codec, trained

from nwc_core.codec import Codec
from nwc_core.codec_file import MAX_CODEC_BYTES, MAX_FILE_BYTES, build_codec_file, parse_codec_file
from nwc_core.errors import FormatError, UsageError

CODEC = reference_codec()
Arrays = dict[str, np.ndarray]


def test_it_comes_back_the_same() -> None:
    data = CODEC.to_bytes()
    assert trained()[1].to_bytes() == data
    again = Codec.from_bytes(data)
    assert Codec.of(again.coder, again.provenance).to_bytes() == data
    assert CODEC.architecture == "nwc-paper"
    assert "nwc-paper" in repr(CODEC)
    assert CODEC.provenance["sources"] == SOURCES
    assert MAX_CODEC_BYTES < len(data) < MAX_FILE_BYTES


def test_it_has_no_prior() -> None:
    with pytest.raises(UsageError, match="architecture nwc-paper"):
        _ = CODEC.prior


def changed(change: Callable[[Arrays], object]) -> bytes:
    arrays: Arrays = {name: array.copy() for name, array in parse_codec_file(CODEC.to_bytes(), "x").arrays.items()}
    change(arrays)
    return build_codec_file("nwc-paper", {}, arrays)


def with_value(name: str, value: float) -> Callable[[Arrays], object]:
    return lambda arrays: arrays[name].reshape(-1).__setitem__(3, value)


def with_array(name: str, array: np.ndarray) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: array})


def halves(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_value("analysis.inner", np.nan), "analysis.inner: found NaN or infinity"),
        (with_value("synthesis.block", np.inf), "synthesis.block: found NaN or infinity"),
        (with_value("embedding", -np.inf), "embedding: found NaN or infinity"),
        (with_array("analysis.inner", halves(32, 8)), r"float16 \[32, 8\]; wanted float16 \[32, 16\]"),
        (
            with_array("analysis.norm", halves(3, 32)),
            r"analysis.norm: found float16 \[3, 32\]; wanted float16 \[2, 32\]",
        ),
        (with_array("synthesis.outer", np.zeros((16, 32), np.uint16)), "synthesis.outer: found uint16"),
        (with_array("analysis.block", halves(2, 32, 48)), "analysis.block: found float16"),
        (with_array("analysis.block", halves(2, 1040, 1040)), r"shape \[2, 1040, 1040\]; wanted .* at most 1024"),
        (with_array("analysis.block", halves(2, 24, 24)), "a multiple of 16"),
        (with_array("analysis.block", halves(40, 16, 16)), "1 to 16"),
        (
            with_array("synthesis.block", halves(5, 512, 512)),
            r"depth 5, width 512; wanted depth \* width\^2 of at most",
        ),
        (with_array("embedding", halves(4, 16)), "embedding: found float16"),
        (with_array("latents.centre", halves(64)), "latents.centre"),
        (with_array("extra", halves(3)), "tensors extra"),
        (lambda arrays: arrays.pop("analysis.outer_bias"), "no tensor analysis.outer_bias"),
        (lambda arrays: arrays.pop("embedding"), "no tensor embedding"),
        (lambda arrays: arrays.pop("latents.freq"), "no tensor latents.freq"),
        (lambda arrays: arrays.clear(), "no tensor analysis.block"),
        (with_value("latents.freq", 0), "wanted sum 16384, no zeros"),
        (with_value("latents.freq", 60000), "wanted sum 16384"),
        (with_value("latents.width", 200), "numbers; wanted"),
        (with_array("latents.width", np.ones((4, 64), np.uint8)), r"latents.width: found uint8 \[4, 64\]"),
        (with_array("latents.freq", np.ones((4, 64), np.uint16)), "latents.freq: found uint16"),
        (with_array("latents.freq", np.ones(64, np.uint16)), "64 numbers"),
    ],
)
def test_files_that_are_none(change: Callable[[Arrays], object], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        Codec.from_bytes(changed(change), "mine.safetensors")


def test_halves_of_two_widths() -> None:
    def widen(arrays: Arrays) -> None:
        for name, array in list(arrays.items()):
            if name.startswith("synthesis."):
                arrays[name] = halves(*(48 if size == 32 else size for size in array.shape))

    with pytest.raises(FormatError, match="a synthesis of width 48; wanted 32"):
        Codec.from_bytes(changed(widen), "mine.safetensors")


def test_a_file_larger_than_any() -> None:
    with pytest.raises(FormatError, match="more than 8388608 bytes"):
        Codec.from_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(FormatError, match="at most 8388608"):
        build_codec_file("nwc-paper", {}, {"analysis.block": halves(8, 1024, 1024)})
    with pytest.raises(FormatError, match="at most 131072"):
        build_codec_file("nwc", {}, {"prior": np.zeros(MAX_CODEC_BYTES, np.uint8)})


def test_metadata_names_the_architecture_unless_it_is_the_default_one() -> None:
    assert json.dumps("nwc-paper")[1:-1].encode() in build_codec_file("nwc-paper", {}, {})
    assert b"architecture" not in build_codec_file("nwc", {}, {})
