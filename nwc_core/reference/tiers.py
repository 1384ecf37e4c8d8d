"""Tiers of columns: the more important a column of a matrix, the finer it is coded.

As published, the 10 % most important columns make up tiers 1 to 3: the first 0.1 % of n columns tier 3, the next 1 % tier 2,
the next 10 % tier 1, each rounded down; all the others are tier 0.

In a stream:

    u8  tiers, 1 to TIERS; 0: all weights are zero, and nothing follows
    for each:
      f32  scale: root mean square of the largest row, over the tier's gain
      u8   quality level
      u8   gain whose tables code the latents, from 0
    for each but tier 0, which has all the others:
      varint  columns
      varint  number of the first, then from each to the next
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core import steps
from nwc_core.reference.autoencoder import Setting
from nwc_core.reference.recipe import CHUNK, GAINS, QUALITIES
from nwc_core.wire import ByteReader, ByteWriter

TIERS = QUALITIES
_ONE_OF = (10, 100, 1000)  # columns is in tier 1, 2 and 3
_MOST_OCTAVES = 4.0  # that a tier is finer or coarser than tier 0; gains end soon after


@dataclass(frozen=True)
class Tier:
    """How the columns of a tier were coded.

    Attributes:
        scale: what decoded weights of unit variance are multiplied by in the largest row.
        quality: level, 0 to QUALITIES - 1.
        gain: set of tables, 0 to GAINS - 1.
    """

    scale: np.float32
    quality: int
    gain: int


@dataclass(frozen=True, eq=False)
class Tiers:
    """Of one matrix.

    Attributes:
        coded: how each tier was coded, 1 to TIERS of them; none for a matrix of zeros.
        column: [n] uint8, the tier of each column.
    """

    coded: tuple[Tier, ...]
    column: npt.NDArray[np.uint8]

    def members(self) -> list[tuple[Tier, npt.NDArray[np.int64]]]:
        """Each tier that has columns, and these."""
        return [
            (tier, at) for index, tier in enumerate(self.coded) if (at := np.flatnonzero(self.column == index)).size
        ]

    def levels(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        """[CHUNK * count] the entropy coder's level of every latent of some chunks, with `LatentTables.of_tiers`."""
        column = np.arange(first, first + count) % self.column.size
        level = CHUNK * self.column[column, None] + np.arange(CHUNK)
        return level.reshape(-1).astype(np.uint8)

    def write(self, out: ByteWriter) -> None:
        out.u8(len(self.coded))
        for tier in self.coded:
            out.f32(float(tier.scale))
            out.u8(tier.quality)
            out.u8(tier.gain)
        for index in range(1, len(self.coded)):
            columns: list[int] = np.flatnonzero(self.column == index).tolist()
            out.varint(len(columns))
            for before, at in zip([0, *columns], columns, strict=False):
                out.varint(at - before)


def column_tiers(importance: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """[n] the tier of each column, given how important [n] they are."""
    n = importance.size
    order = np.argsort(-importance, kind="stable")
    column, first = np.zeros(n, np.uint8), 0
    for index in range(TIERS - 1, 0, -1):
        count = n // _ONE_OF[index - 1]
        column[order[first : first + count]] = index
        first += count
    return column


def tier_settings(
    rate: float,
    column: npt.NDArray[np.uint8],
    weights: npt.NDArray[np.float64],
    native_rate: npt.NDArray[np.float64],
) -> list[Setting]:
    """Of each tier up to the last that has columns.

    A tier's step goes with 1 / sqrt of what its columns weigh on average, so that error is worth as much rate in all tiers.
    (The published ratios of steps are those of the quality levels, whatever H; on MiniLM they cost 0.01 bit more per weight
    at 3.2 bits, 0.05 at 4.2.)

    Args:
        rate: wanted in bits per latent, all columns together.
        column: [n] the tier of each.
        weights: [n] what each column's error counts, after feedback.
        native_rate: [QUALITIES] bits per latent at gain 1.
    """
    counts = np.bincount(column)
    mean = np.bincount(column, weights) / counts
    octaves = 0.5 * np.log2(np.maximum(mean, mean.max() * 2.0**-100))
    finer = np.clip(octaves - octaves[0], -_MOST_OCTAVES, _MOST_OCTAVES)
    settings = []
    for wanted in rate - counts @ finer / column.size + finer:
        quality = int(np.abs(native_rate - wanted).argmin())
        settings.append(Setting(quality, 0.0).finer(float(wanted - native_rate[quality])))
    return settings


def read_coded(reader: ByteReader) -> tuple[Tier, ...]:
    """How the tiers were coded, checked.

    Raises:
        FormatError: it is damaged.
    """
    count = reader.u8()
    if count > TIERS:
        raise reader.fail(f"{count} tiers of columns", f"at most {TIERS}")
    return tuple(_read_tier(reader) for _ in range(count))


def read_columns(reader: ByteReader, n: int, tiers: int) -> npt.NDArray[np.uint8]:
    """[n] the tier of each column, which follows; n must be known to be more than a claim.

    Raises:
        FormatError: it is damaged.
    """
    column = np.zeros(n, np.uint8)
    for index in range(1, tiers):
        members = _read_members(reader, n)
        if column[members].any():
            raise reader.fail("a column in two tiers", "every column in one")
        column[members] = index
    return column


def _read_members(reader: ByteReader, n: int) -> npt.NDArray[np.int64]:
    count = reader.varint()
    if count > min(n, reader.remaining):
        raise reader.fail(f"{count} columns in a tier", f"what {n} columns and {reader.remaining} bytes can hold")
    columns = np.empty(count, np.int64)
    at = 0
    for index in range(count):
        step = reader.varint()
        if (index and not step) or step >= n - at:
            raise reader.fail(f"column {at} followed by {at + step} in a tier", f"ascending numbers below {n}")
        at += step
        columns[index] = at
    return columns


def _read_tier(reader: ByteReader) -> Tier:
    scale, quality, gain = reader.f32(), reader.u8(), reader.u8()
    if not (math.isfinite(scale) and steps.MIN_STEP <= scale <= steps.MAX_STEP):
        raise reader.fail(f"scale {scale}", f"between {steps.MIN_STEP} and {steps.MAX_STEP}")
    if quality >= QUALITIES or gain >= GAINS:
        raise reader.fail(f"quality {quality}, gain {gain}", f"below {QUALITIES}, below {GAINS}")
    return Tier(np.float32(scale), quality, gain)
