"""What is measured of one encoding is what its bytes and its decoded tensor say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import lossy_tensors, normal

from nwc_core.codec import Codec
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import UsageError
from nwc_core.matrices import default_layout
from nwc_core.reference.coder import ReferenceCoder
from nwc_core.training.autoencoder import Autoencoder
from nwc_core.training.export import export
from nwc_workflows.bench.code_length import code_length, matrix_streams
from nwc_workflows.bench.codec import sample_rows
from nwc_workflows.bench.contenders import CodecContender, find_contenders
from nwc_workflows.bench.ideal_scalar import ideal_scalar
from nwc_workflows.bench.one_pass import OnePass
from nwc_workflows.bench.sources import SOURCES
from nwc_workflows.bench.speed import speed_tensors

# What any scalar quantiser with an ideal entropy coder loses at high rate: 1/2 log2(pi e / 6).
SCALAR_LOSS = 0.5 * math.log2(math.pi * math.e / 6)


def test_a_measurement_is_that_of_the_bytes(codec: Codec) -> None:
    weight = normal(256, 300).bfloat16()
    found = CodecContender("default", codec, "fast").measure(weight, default_layout((256, 300)), 3.0)
    assert found is not None
    raw = codec.encode(weight, 3.0, preset="fast").to_bytes()
    error = codec.decode(EncodedTensor.from_bytes(raw)).double() - weight.double()
    assert found.bits == 8 * len(raw) / (256 * 300)
    assert found.mse == float(error.square().mean())
    assert found.missed_by == found.bits - 3
    assert found.side_bits is not None
    assert found.table_bits is not None
    assert found.coder_bits is not None
    assert found.misfit_bits is not None
    assert found.bits == pytest.approx(found.side_bits + found.table_bits + found.coder_bits)
    assert 0 < found.side_bits < 0.2
    assert 0 < found.coder_bits < 0.05
    assert CodecContender("default", codec, "fast").measure(torch.ones(64, 64), default_layout((64, 64)), 3.0) is None


@pytest.mark.parametrize("bits", [2.0, 4.0, 7.5])  # the last with raw low bits
def test_code_length(codec: Codec, bits: float) -> None:
    weight = SOURCES["gaussian"].sample((256, 512), 0)
    encoded = codec.encode(weight, bits)
    length = code_length(codec, encoded)
    words = sum(segment.words.size for stream in matrix_streams(codec, encoded) for segment in stream.segments)
    # Every word holds 16 bits of code length, but for the states that a segment ends with.
    assert 16 * words / weight.numel() == pytest.approx(length.tables, abs=0.005)
    assert length.tables - 0.02 < length.entropy < length.tables + 0.002


def test_ideal_scalar_loses_what_theory_says() -> None:
    weight = SOURCES["gaussian"].sample((256, 2048), 0)
    for bits in (3.0, 5.0):
        found = ideal_scalar(weight, bits, default_layout((256, 2048)))
        assert found.bits == pytest.approx(bits, abs=1e-3)
        assert found.bits + 0.5 * math.log2(found.mse) == pytest.approx(SCALAR_LOSS, abs=0.01)
    # Row scales are free: a row that is a thousand times larger costs no rate.
    scale = torch.ones(256, 1)
    scale[::2] = 1000
    scaled = ideal_scalar(weight * scale, 4.0, default_layout((256, 2048)))
    plain = ideal_scalar(weight, 4.0, default_layout((256, 2048)))
    assert scaled.mse == pytest.approx(plain.mse * float(scale.square().mean()), rel=0.05)


def test_ideal_scalar_is_no_better_on_few_weights() -> None:
    gaps = []
    for seed in range(20):
        found = ideal_scalar(SOURCES["gaussian"].sample((32, 64), seed), 4.0, default_layout((32, 64)))
        gaps.append(found.bits + 0.5 * math.log2(found.mse))
    assert np.mean(gaps) == pytest.approx(SCALAR_LOSS, abs=0.03)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("preset", ["scalar", "default"])
def test_one_pass_gives_the_encoders_own_segments(codec: Codec, kind: str, preset: str) -> None:
    weight = speed_tensors()[kind][:96]
    encoded = codec.encode(weight, 4.0, preset=preset)
    streams = list(matrix_streams(codec, encoded))
    assert any(s.header.transform or s.header.bases for s in streams) == (kind == "conv")  # a transform pays there
    again = OnePass(codec, weight, encoded)
    for found in (again.run(1), again.run(2), again.code()):
        for segments, stream in zip(found, streams, strict=True):
            assert len(segments) == len(stream.segments)
            for segment, wanted in zip(segments, stream.segments, strict=True):
                assert np.array_equal(segment.words, wanted.words)
                assert np.array_equal(segment.states, wanted.states)
                assert np.array_equal(segment.escapes, wanted.escapes)


@pytest.mark.parametrize(("name", "tensor"), lossy_tensors().items())
def test_sampled_rows_are_rows_of_every_matrix(name: str, tensor: torch.Tensor) -> None:
    layout = default_layout(tuple(tensor.shape))
    whole = layout.to_matrices(tensor.float().numpy())
    sample = sample_rows(tensor, layout, tensor.numel() // 4)
    assert torch.equal(sample, sample_rows(tensor, layout, tensor.numel() // 4))
    rows = layout.to_matrices(sample.float().numpy())
    assert rows.shape[0] == whole.shape[0]
    assert rows.shape[2] == whole.shape[2]
    assert 1024 <= rows.size <= max(1024, whole.size // 4) + rows.shape[0] * rows.shape[2]
    for some, all_rows in zip(rows, whole, strict=True):
        kept = {row.tobytes() for row in all_rows}
        assert len({row.tobytes() for row in some}) == len(some)
        assert all(row.tobytes() in kept for row in some)
    assert sample_rows(tensor, layout, 10**9) is tensor


def test_contenders(tmp_path: Path, codec: Codec) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(codec.to_bytes())
    groups = find_contenders(["default", str(path), "ideal-scalar"], ["fast", "max"])
    labels = [[contender.label for contender in group] for group in groups]
    assert labels == [["default:fast", "default:max"], ["mine:fast", "mine:max"], ["ideal-scalar"]]
    with pytest.raises(UsageError, match="two named 'mine'"):
        find_contenders([str(path), str(path)], ["fast"])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small codec of the published architecture; it starts as a scalar quantiser, which will do."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("published") / "small.safetensors"
    path.write_bytes(Codec.of(export(Autoencoder(32, 1, 100.0)), {}).to_bytes())
    return path


@pytest.mark.parametrize("shape", [(80, 96), (4, 80, 64), (24, 16, 3, 3)])
def test_the_published_codec_at_its_own_rates(published: Path, shape: tuple[int, ...]) -> None:
    ((any_rate, native),) = find_contenders([str(published)], ["fast", "max"])
    assert (any_rate.label, native.label) == ("small", "small:native")
    weight, layout = normal(*shape), default_layout(shape)
    assert list(native.settings([3.0, 4.0])) == [0, 1, 2, 3]
    found = [native.measure(weight, layout, quality) for quality in native.settings([])]
    assert all(point is not None and point.wanted is None and point.table_bits is None for point in found)
    bits, errors = [point.bits for point in found if point], [point.mse for point in found if point]
    assert bits == sorted(bits)
    assert errors == sorted(errors, reverse=True)
    coder = Codec.load(published).coder
    assert isinstance(coder, ReferenceCoder)
    matrices = layout.to_matrices(weight.numpy())
    coded = [coder.encode_native(matrix, 1) for matrix in matrices]
    assert errors[1] == pytest.approx(
        float(np.mean([np.square(c.weights - m) for c, m in zip(coded, matrices, strict=True)]))
    )
    around = bits[1] * weight.numel() / 8 - sum(len(c.data) for c in coded)
    assert 4 <= around <= 20 + 3 * len(matrices)  # header, layout and the streams' lengths
