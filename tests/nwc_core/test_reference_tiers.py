"""The reference codec with calibration: columns in tiers by importance, errors fed to the columns that follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from codec_samples import gaussian
from reference_samples import reference_codec, reference_coder

from nwc_core.encoded import EncodedTensor
from nwc_core.errors import FormatError
from nwc_core.importance import Importance, factorise
from nwc_core.prior import TABLE_LEVELS
from nwc_core.quantise import Unsuitable
from nwc_core.reference.autoencoder import Autoencoder, Setting
from nwc_core.reference.quantiser import Compensated
from nwc_core.reference.recipe import CHUNK, GAINS, MAX_GAIN, QUALITIES
from nwc_core.reference.stream import ReferenceStream
from nwc_core.reference.tiers import Tier, Tiers, column_tiers, read_coded, read_columns, tier_settings
from nwc_core.wire import ByteReader, ByteWriter

CODEC, CODER = reference_codec(), reference_coder()
NATIVE = CODER.tables.native_rate(MAX_GAIN)
Floats = npt.NDArray[np.float32]


def moments(n: int) -> Floats:
    """Of correlated inputs, a few of which are far stronger than the others."""
    rng = np.random.default_rng(n)
    mixed = rng.standard_normal((4 * n, n // 4)) @ rng.standard_normal((n // 4, n)) / 8
    x = (mixed + rng.standard_normal((4 * n, n))) * np.exp(rng.standard_normal(n))
    return (x.T @ x / len(x)).astype(np.float32)


def loss(decoded: Floats, weight: Floats, hessian: Floats) -> float:
    error = (decoded - weight).astype(np.float64)
    return float(((error @ hessian) * error).sum())


@pytest.mark.parametrize(("n", "sizes"), [(2000, (2, 20, 200)), (384, (0, 3, 38)), (9, (0, 0, 0))])
def test_the_most_important_columns_come_first(n: int, sizes: tuple[int, ...]) -> None:
    importance = np.random.default_rng(0).permutation(n).astype(np.float32)
    column = column_tiers(importance)
    assert tuple((column == tier).sum() for tier in (3, 2, 1)) == sizes
    ranked = column[np.argsort(-importance)]
    assert (np.diff(ranked.astype(int)) <= 0).all()


def test_more_important_tiers_are_coded_finer_by_what_they_weigh() -> None:
    column = column_tiers(np.arange(1000))
    weights = np.array([1.0, 4.0, 16.0, 64.0])[column]
    settings = tier_settings(4.0, column, weights, NATIVE)
    rates = [NATIVE[setting.quality] + setting.log2_gain for setting in settings]
    assert np.diff(rates) == pytest.approx([1, 1, 1])  # half of log2 4
    assert np.mean(np.array(rates)[column]) == pytest.approx(4)
    assert all(abs(NATIVE - rate).min() == abs(s.log2_gain) for s, rate in zip(settings, rates, strict=True))
    alone = tier_settings(NATIVE[1] + 0.1, np.zeros(30, np.uint8), np.ones(30), NATIVE)
    assert [setting.quality for setting in alone] == [1]
    assert alone[0].log2_gain == pytest.approx(0.1)
    for weight in (0.0, 1e300):  # gains end somewhere
        extreme = tier_settings(4.0, column, np.where(column == 3, weight, 1.0), NATIVE)
        assert np.isfinite([setting.log2_gain for setting in extreme]).all()


class Rounding(Autoencoder):
    """Rounds chunks times their gain, in place of networks."""

    def __init__(self) -> None:
        pass

    def quantise(self, chunks: Floats, setting: Setting, threads: int = 1) -> npt.NDArray[np.int32]:
        return np.rint(chunks * np.float32(2.0**setting.log2_gain)).astype(np.int32)

    def reconstruct(self, latents: npt.NDArray[np.int32], quality: int, threads: int = 1) -> Floats:
        return latents.astype(np.float32)


def test_errors_are_fed_to_the_columns_that_follow() -> None:
    m, n = 70 * CHUNK - 5, 80  # several blocks of columns, more bands than are worked off at a time
    weight = gaussian(m, n).numpy()
    hessian = moments(n)
    order = np.random.default_rng(3).permutation(n)
    upper = np.triu(factorise(hessian[np.ix_(order, order)], 3.0, 0.01).upper, 1)
    column = column_tiers(np.diagonal(hessian))
    settings = [Setting(0, 1.0), Setting(1, 2.0)]
    gain = np.array([2.0, 4.0])[column]
    decoded = np.zeros((m, n))
    for at, j in enumerate(order):
        before = order[:at]
        target = weight[:, j] + (weight - decoded)[:, before].astype(np.float64) @ upper[:at, at]
        decoded[:, j] = np.rint(target * gain[j]) / gain[j]

    bands = -(-m // CHUNK)
    padded = np.concatenate([weight, np.zeros((bands * CHUNK - m, n), np.float32)])
    chunks = np.ascontiguousarray(padded.reshape(bands, CHUNK, n).transpose(0, 2, 1))
    rows = np.minimum(CHUNK, m - CHUNK * np.arange(bands))
    quantiser = Compensated(chunks, rows, column, order, upper.astype(np.float32))
    latents = quantiser.latents(Rounding(), settings, 1)
    found = (latents.reshape(bands, n, CHUNK) / gain[:, None]).transpose(0, 2, 1).reshape(-1, n)
    same = found[:m] == decoded  # ties that float32 decides otherwise change what follows in their row
    assert same.mean() > 0.99
    assert same.all(1).mean() > 0.95
    assert not found[m:].any()
    assert np.array_equal(quantiser.latents(Rounding(), settings, 3), latents)
    sample = quantiser.sample()
    assert sample is not None
    assert sample.sample() is None
    some = sample.latents(Rounding(), settings, 1).reshape(-1, n, CHUNK)
    assert np.array_equal(some[[0, -1]], latents.reshape(bands, n, CHUNK)[[0, -1]])
    assert np.array_equal(quantiser.tier.reshape(bands, n)[7], column)


@pytest.mark.parametrize(("shape", "bits"), [((20, 1000), 3.0), ((64, 64), 4.0), ((1100, 48), 5.0), ((33, 40), 2.0)])
def test_calibration_makes_the_loss_smaller_at_the_same_rate(shape: tuple[int, int], bits: float) -> None:
    weight, hessian = gaussian(*shape), moments(shape[1])
    plain = CODEC.encode(weight, bits)
    encoded = CODEC.encode(weight, bits, hessian=torch.from_numpy(hessian))
    assert encoded.bits_per_weight == pytest.approx(bits, abs=0.012 + 60 / weight.numel())  # small ones: a few words
    decoded = CODEC.decode(EncodedTensor.from_bytes(encoded.to_bytes()))
    before = loss(CODEC.decode(plain).numpy(), weight.numpy(), hessian)
    assert loss(decoded.numpy(), weight.numpy(), hessian) < 0.72 * before
    assert encoded.mse == pytest.approx(float((decoded - weight).square().mean()), rel=1e-5)


def test_threads_and_weights_of_rows_change_nothing() -> None:
    weight, hessian = gaussian(1100, 100), torch.from_numpy(moments(100))
    first = CODEC.encode(weight, 3.3, hessian=hessian)
    assert CODEC.encode(weight, 3.3, hessian=hessian, threads=3).to_bytes() == first.to_bytes()
    assert CODEC.encode(weight, 3.3, hessian=hessian, rows=torch.rand(1100) + 0.1).to_bytes() == first.to_bytes()
    assert torch.equal(CODEC.decode(first, threads=3), CODEC.decode(first))


def test_inputs_that_never_came_weigh_like_all_others() -> None:
    weight = gaussian(48, 64)
    encoded = CODEC.encode(weight, 4.0, hessian=torch.zeros(64, 64))
    assert encoded.bits_per_weight == pytest.approx(4.0, abs=0.012)
    assert float((CODEC.decode(encoded) - weight).square().mean()) < 0.01


def test_numbers_that_the_networks_cannot_take() -> None:
    broken = replace(CODER, embedding=np.full_like(CODER.embedding, 1e30))
    importance = Importance(moments(64))
    with pytest.raises(Unsuitable):
        broken.encode(gaussian(48, 64).numpy(), 4.0, n_states=1, taps=1, threads=1, importance=importance)


def many_tiers() -> tuple[Tiers, npt.NDArray[np.int32]]:
    """Tiers of a matrix [40, 1000], and latents as wide as their tables expect."""
    rng = np.random.default_rng(0)
    coded = tuple(Tier(np.float32(0.5 + i), q, g) for i, (q, g) in enumerate([(2, 3), (0, 8), (3, 16), (2, 9)]))
    column = column_tiers(rng.random(1000))
    width = np.array([2.0 ** (NATIVE[tier.quality] + 0.25 * (tier.gain - MAX_GAIN) - 2) for tier in coded])
    latents = rng.standard_normal((3 * 1000, CHUNK)) * np.tile(width[column], 3)[:, None]
    return Tiers(coded, column), np.rint(latents).astype(np.int32)


def test_every_tier_has_tables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nwc_core.reference.stream._SEGMENT_CHUNKS", 700)  # segments that begin within a band
    tiers, latents = many_tiers()
    shape = CODER.tables.of_tiers(tiers.coded)
    assert len(shape.zero) == 2 * TABLE_LEVELS
    exponents = np.random.default_rng(1).integers(-20, 1, 40).astype(np.int32)
    stream = ReferenceStream.encode(tiers, exponents, latents, CODER.tables)
    out = ByteWriter()
    side = stream.write(out, CODER.tables)
    of_tier = [latents[np.tile(tiers.column, 3) == index] for index in range(len(tiers.coded))]
    bits = [CODER.tables.rates(own, t.quality)[t.gain] for own, t in zip(of_tier, tiers.coded, strict=True)]
    states = 32 * sum(segment.states.size for segment in stream.segments)
    assert 8 * (len(out) - side) == pytest.approx(sum(bits) + states, rel=0.01)
    read = ReferenceStream.read(ByteReader(out.getvalue(), "x"), 40, 1000, CODER.tables)
    assert read.tiers.coded == tiers.coded
    assert np.array_equal(read.tiers.column, tiers.column)
    assert np.array_equal(read.latents(CODER.tables, "x"), latents)
    weights = CODER.synthesise(read, latents, 1)
    for index, tier in enumerate(tiers.coded):
        at = np.flatnonzero(tiers.column == index)
        alone = Tiers((tier,), np.zeros(at.size, np.uint8))
        own = latents.reshape(3, 1000, CHUNK)[:, at].reshape(-1, CHUNK)
        single = ReferenceStream.encode(alone, exponents, own, CODER.tables)
        assert np.array_equal(weights[:, at], CODER.synthesise(single, own, 1))


def written(tiers: Tiers) -> bytes:
    out = ByteWriter()
    tiers.write(out)
    return out.getvalue()


def test_which_columns_are_important_costs_little() -> None:
    tiers, _ = many_tiers()
    assert len(written(tiers)) < 160  # of 5,000 bytes and more that the smallest matrix of so many columns takes


def _fields(*fields: int) -> bytes:
    out = ByteWriter()
    for field in fields:
        out.varint(field)
    return out.getvalue()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((1, 30, 0), "column 0 followed by 30"),
        ((2, 29, 1, 0), "column 29 followed by 30"),
        ((2, 5, 0, 0), "column 5 followed by 5"),
        ((2, 5, 1, 1, 6), "a column in two tiers"),
        ((31,) + (1,) * 40, "31 columns in a tier"),
        ((30, 1, 1), "30 columns in a tier"),
        ((1 << 50,), f"{1 << 50} columns in a tier"),
        ((1, 1 << 60, 0), "column 0 followed by"),
        ((0,), "0 bytes left"),
    ],
)
def test_damaged_columns(fields: tuple[int, ...], words: str) -> None:
    with pytest.raises(FormatError, match=f"layer.3.*{words}"):
        read_columns(ByteReader(_fields(*fields), "layer.3"), 30, 3)


def test_damaged_tiers() -> None:
    good = bytes([2]) + b"".join(np.float32(s).tobytes() + bytes([1, 2]) for s in (1.0, 2.0))
    assert read_coded(ByteReader(good, "x")) == (Tier(np.float32(1), 1, 2), Tier(np.float32(2), 1, 2))
    damaged = {
        "5 tiers": (0, bytes([5])),
        "scale inf": (7, np.float32(np.inf).tobytes()),
        "scale -1": (7, np.float32(-1).tobytes()),
        "scale 0.0": (7, bytes(4)),
        f"quality {QUALITIES}": (11, bytes([QUALITIES])),
        f"gain {GAINS}": (12, bytes([GAINS])),
    }
    for words, (at, value) in damaged.items():
        with pytest.raises(FormatError, match=words):
            read_coded(ByteReader(good[:at] + value + good[at + len(value) :], "x"))


def test_any_flipped_bit_is_an_error_or_changes_only_values() -> None:
    weight = gaussian(40, 200).numpy()
    coded = CODER.encode(weight, 3.0, n_states=1, taps=1, threads=1, importance=Importance(moments(200)))
    rng = np.random.default_rng(0)
    kept = 0
    for at in [*range(60), *rng.integers(60, len(coded.data), 40)]:
        damaged = bytearray(coded.data)
        damaged[at] ^= 1 << int(rng.integers(8))
        out = np.zeros((40, 200), np.float32)
        try:
            CODER.read(ByteReader(bytes(damaged), "layer.3"), 40, 200).weights_into(out, "layer.3")
        except FormatError as error:
            assert "layer.3" in error.where
        else:
            kept += 1
    assert kept < 40


def test_few_bytes_cannot_claim_many_columns() -> None:
    start = written(Tiers((Tier(np.float32(1), 0, 0),) * 4, np.zeros(0, np.uint8)))
    with pytest.raises(FormatError, match=r"latents in \d+ bytes"):
        ReferenceStream.read(ByteReader(start + bytes(40), "x"), 1, 1 << 40, CODER.tables)
