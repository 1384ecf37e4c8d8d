"""A matrix's own basis: orthonormal however coarse, exact in decoding, found where it pays, refused where it is damaged."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest
import torch
from codec_samples import gaussian, sample_codec
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_synthesis import undone

from nwc_core import intvector
from nwc_core.basis import COLUMNS, ROWS, SHIFT, Basis, most_vectors
from nwc_core.basis_search import find_basis
from nwc_core.decorrelate import Parts, decorrelate
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import FormatError
from nwc_core.exact import Inexact
from nwc_core.prior import TABLE_LEVELS
from nwc_core.rans import encode_segment
from nwc_core.trellis import transitions
from nwc_core.wire import ByteReader, ByteWriter

PRIOR = sample_codec().prior


def reflections(size: int, rank: int, reach: int, seed: int) -> npt.NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    vectors = np.tril(rng.integers(-reach, reach + 1, (size, rank))).astype(np.int32)
    vectors[np.arange(rank), np.arange(rank)] = reach
    return vectors


def dense(vectors: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The product of the reflections, one after the other."""
    product = np.eye(vectors.shape[0])
    for u in vectors.T.astype(np.float64):
        product = product @ (np.eye(u.size) - 2 * np.outer(u, u) / (u @ u))
    return product


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(2, 40),
    rank=st.integers(1, 39),
    groups=st.integers(1, 3),
    lines=st.integers(1, 5),
    axis=st.sampled_from([COLUMNS, ROWS]),
    reach=st.sampled_from([1, 9, 700]),
    seed=st.integers(0, 1 << 30),
)
def test_basis_is_the_product_of_its_reflections(
    size: int, rank: int, groups: int, lines: int, axis: int, reach: int, seed: int
) -> None:
    basis = Basis(axis, reflections(size, min(rank, size - 1), reach, seed))
    q = dense(basis.vectors)
    shape = (lines, size * groups) if axis == COLUMNS else (size, lines)
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape).astype(np.float32)
    along = (lambda x: x.reshape(-1, size)) if axis == COLUMNS else (lambda x: x.T)
    # B is rounded to 2^-SHIFT, and every rounding is multiplied by the vectors' entries.
    rounding = np.abs(along(weight)).sum(1).max() * np.abs(basis.vectors).sum(1).max() * 2.0 ** -(SHIFT + 1)
    assert along(basis.analyse(weight)) == pytest.approx(along(weight) @ q, abs=rounding + 1e-5)
    points = rng.integers(-1000, 1001, shape).astype(np.float64)
    back = points * float(1 << SHIFT) - basis.mixing().turned(points, 1000.0)
    assert (back == undone(basis, points)).all()
    assert (back == np.rint(back)).all()
    rounding = np.abs(along(points) @ basis.vectors).sum(1).max() * 2.0 ** -(SHIFT + 1)
    assert along(back) * 2.0**-SHIFT == pytest.approx(along(points) @ q.T, abs=rounding + 1e-6)
    assert rounding < 2  # steps, for points and entries as large as these
    out = ByteWriter()
    basis.write(out, PRIOR)
    m, n = shape if axis == COLUMNS else (size, lines)
    reader = ByteReader(out.getvalue(), "x")
    if basis.rank > most_vectors(size, m * n):
        with pytest.raises(FormatError, match="vectors of"):
            Basis.read(reader, m, n, PRIOR)
        return
    again = Basis.read(reader, m, n, PRIOR)
    reader.end()
    assert again.axis == axis
    assert (again.vectors == basis.vectors).all()


def test_factors_never_change() -> None:
    """The integers of a fixed case: what was decoded once is decoded for ever."""
    factor = Basis(COLUMNS, reflections(50, 20, 90, 3)).mixing().b
    assert hashlib.sha256(factor.astype("<f8").tobytes()).hexdigest()[:16] == "4a78bac2e167a946"


def test_sums_past_the_exact_integers_are_refused() -> None:
    basis = Basis(COLUMNS, reflections(30, 9, 40, 0))
    basis.mixing().turned(np.full((2, 30), 2.0**22), 2.0**30)
    with pytest.raises(Inexact):
        basis.mixing().turned(np.full((2, 30), 2.0**29), 2.0**29)


def spiked(m: int, n: int, directions: int, gain: float) -> npt.NDArray[np.float32]:
    """Noise plus a few directions of the input in which all rows are strong."""
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((m, n))
    common = rng.standard_normal((m, directions)) @ rng.standard_normal((directions, n)) * gain
    return (noise + common).astype(np.float32)


def test_strong_directions_are_found_and_pay() -> None:
    weight = spiked(400, 96, 5, 0.6)
    basis = find_basis(weight, COLUMNS, 400, 4.0, 95)
    assert basis is not None
    assert 4 <= basis.rank <= 8
    coefficients = basis.analyse(weight)
    share = np.square(coefficients[:, : basis.rank]).sum() / np.square(coefficients).sum()
    explained = np.sort(np.linalg.eigvalsh(weight.T @ weight))[::-1]
    assert share > 0.97 * explained[: basis.rank].sum() / explained.sum()


@pytest.mark.parametrize(("m", "n"), [(64, 64), (1000, 96), (96, 1000)])
def test_noise_gets_none(m: int, n: int) -> None:
    weight = gaussian(m, n).numpy()
    assert decorrelate(weight, 4.0, 1, PRIOR, [], Parts()).bases == ()


@pytest.mark.parametrize("axis", [COLUMNS, ROWS])
@pytest.mark.parametrize("bits", [2.0, 5.0])
def test_the_codec_takes_it_and_gains(axis: int, bits: float) -> None:
    codec = sample_codec()
    weight = torch.from_numpy(spiked(600, 96, 4, 0.7))
    if axis == ROWS:
        weight = weight.T.contiguous()
    chosen = decorrelate(weight.numpy(), bits, 1, codec.prior, [], Parts())
    assert [basis.axis for basis in chosen.bases] == [axis]
    encoded = codec.encode(weight, bits)
    back = codec.decode(EncodedTensor.from_bytes(encoded.to_bytes()))
    mse = float((back - weight).square().mean())
    assert encoded.mse == pytest.approx(mse, rel=1e-6)
    # What a codec of single weights could reach at best: Shannon's bound for their variance.
    assert mse < 0.75 * float(weight.var()) * 4.0**-bits


def test_the_result_does_not_depend_on_threads() -> None:
    codec, weight = sample_codec(), torch.from_numpy(spiked(3000, 400, 6, 0.5))
    one = codec.encode(weight, 3.0, threads=1).to_bytes()
    torch.set_num_threads(2)
    assert codec.encode(weight, 3.0, threads=3).to_bytes() == one


def _written(axis: int, size: int, rank: int, shape: int, levels: list[int], entries: list[int]) -> ByteReader:
    out = ByteWriter()
    out.u8(axis)
    out.varint(size)
    out.varint(rank)
    out.u8(shape)
    out.raw(bytes(levels))
    level = np.full(len(entries), min(levels[0], TABLE_LEVELS - 1), np.uint8)
    points = 2 * np.array(entries, np.int32)
    segment = encode_segment(points, level, 1, transitions(1), PRIOR.tables[min(shape, PRIOR.shapes - 1)])
    intvector.write_segment_sizes(out, segment)
    intvector.write_segment(out, segment)
    return ByteReader(out.getvalue(), "w")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axis": 2}, "axis 2"),
        ({"size": 7}, "size 7"),
        ({"size": 1}, "size 1"),
        ({"axis": ROWS}, "size 8 for axis 1"),
        ({"rank": 8, "levels": [20] * 8}, "8 vectors of 8"),
        ({"rank": 0, "levels": [20]}, "0 vectors of 8"),
        ({"shape": 9}, "table shape 9"),
        ({"levels": [TABLE_LEVELS]}, f"level {TABLE_LEVELS}"),
        ({"entries": [0] * 8}, "basis vector 0, all zeros"),
        ({"entries": [1 << 16, *[1] * 7]}, "a basis entry of 65536"),
        ({"entries": [1] * 9}, "entropy code|words|escapes"),
    ],
)
def test_damaged_bases_are_refused(fields: dict[str, object], message: str) -> None:
    whole: dict[str, object] = {
        "axis": COLUMNS, "size": 8, "rank": 1, "shape": 0, "levels": [20], "entries": [5, *range(1, 8)],
    }  # fmt: skip
    Basis.read(_written(**whole), 4, 16, PRIOR)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=message):
        Basis.read(_written(**(whole | fields)), 4, 16, PRIOR)  # type: ignore[arg-type]


def test_vectors_never_outgrow_half_of_the_weights() -> None:
    wide = 4096
    out = ByteWriter()
    Basis(COLUMNS, reflections(wide, 3, 5, 0)).write(out, PRIOR)
    assert Basis.read(ByteReader(out.getvalue(), "w"), 6, wide, PRIOR).rank == 3
    with pytest.raises(FormatError, match="3 vectors of 4096"):
        Basis.read(ByteReader(out.getvalue(), "w"), 5, wide, PRIOR)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_few_lines_among_zeros(transposed: bool) -> None:
    """None of them may be in the sample from which directions are estimated."""
    weight = torch.zeros(8192, 96)
    weight[[1, 5, 6]] = gaussian(3, 96)
    if transposed:
        weight = weight.T.contiguous()
    codec = sample_codec()
    assert codec.decode(codec.encode(weight, 4.0)).shape == weight.shape


@pytest.mark.parametrize("bits", [1.5, 1.75, 3.0, 6.0, 8.0])
def test_rates_are_met_where_taps_are_nearly_equal(bits: float) -> None:
    """Nearly all coefficients are zeros: the model of the rate is far off, so the search has to close in by itself."""
    same = gaussian(256, 128, 1).numpy().repeat(9, 2).reshape(256, 128, 3, 3)
    weight = torch.from_numpy(same + 1e-3 * gaussian(256, 128, 3, 3, seed=1).numpy())
    assert sample_codec().encode(weight, bits).bits_per_weight == pytest.approx(bits, abs=0.02)


def test_sums_too_large_are_done_without() -> None:
    """A weight beyond all others leaves the exact sums at a high rate: no basis then, and no error."""
    weight = torch.from_numpy(spiked(600, 96, 4, 0.7))
    weight[5, 7] = 2.0**30
    codec = sample_codec()
    encoded = codec.encode(weight, 8.0)
    assert codec.decode(encoded)[5, 7] == pytest.approx(2.0**30, rel=1e-3)
