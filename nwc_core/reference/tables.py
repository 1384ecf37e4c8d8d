"""Entropy tables of the latents: one for every gain, quality level and channel.

The tables of one gain fill the levels of one set of `nwc_core.prior.ShapeTables`, level = quality * CHUNK + channel, so
the entropy coder takes them as they are; those of a matrix whose tiers of columns differ in quality or gain are put
together alike, level = tier * CHUNK + channel. A table with half width K codes k in [-K, K] as symbol k + K and then the
escape; unlike the prior's it need not be symmetric. QUALITIES * CHUNK is TABLE_LEVELS: every level is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError
from nwc_core.prior import MAX_HALF_WIDTH, RATE_SPAN, TABLE_LEVELS, TOTAL, ShapeTables, normalise
from nwc_core.reference.recipe import CHUNK, GAINS, MAX_GAIN, QUALITIES
from nwc_core.reference.tiers import TIERS, Tier


@dataclass(frozen=True, eq=False)
class LatentTables:
    """Tables of all gains.

    Attributes:
        half_width: [GAINS, TABLE_LEVELS] uint8, K of each table.
        freq: flat uint16, for every table the frequencies of -K ... K and of the escape.
    """

    half_width: npt.NDArray[np.uint8]
    freq: npt.NDArray[np.uint16]

    @cached_property
    def sets(self) -> list[ShapeTables]:
        """[GAINS] expanded and checked tables.

        Raises:
            FormatError: sizes disagree, or a table does not sum to TOTAL.
        """
        size = int((2 * self.half_width.astype(np.int64) + 2).sum())
        if self.freq.size != size:
            raise FormatError("codec, latents.freq", f"{self.freq.size} numbers", f"{size} for these half widths")
        if int(self.half_width.max()) > MAX_HALF_WIDTH:
            raise FormatError(
                "codec, latents.width", f"half width {self.half_width.max()}", f"at most {MAX_HALF_WIDTH}"
            )
        at, out = 0, []
        for gain in range(GAINS):
            freq = np.zeros((2 * TABLE_LEVELS, 256), np.uint32)
            zero = np.ones(2 * TABLE_LEVELS, np.int32)
            # Tables of odd points, which only a trellis asks for: never used here, but they must be some.
            freq[1::2, :3] = (TOTAL - 1) // 2, (TOTAL - 1) // 2, TOTAL - 2 * ((TOTAL - 1) // 2)
            for level in range(TABLE_LEVELS):
                width = int(self.half_width[gain, level])
                row = self.freq[at : at + 2 * width + 2]
                at += row.size
                total = int(row.sum(dtype=np.int64))
                if total != TOTAL or row.min() == 0:
                    name = f"codec, latents.freq, gain {gain}, level {level}"
                    raise FormatError(name, f"sum {total}, least {row.min()}", f"sum {TOTAL}, no zeros")
                freq[2 * level, : row.size] = row
                zero[2 * level] = width
            start = np.zeros_like(freq)
            start[:, 1:] = np.cumsum(freq[:, :-1], axis=1)
            out.append(ShapeTables(freq, start, zero))
        return out

    def of_tiers(self, tiers: Sequence[Tier]) -> ShapeTables:
        """The tables that code a stream of these tiers of columns: level = tier * CHUNK + channel."""
        first = [2 * CHUNK * tier.quality for tier in tiers] + [0] * (TIERS - len(tiers))
        gains = [tier.gain for tier in tiers] + [MAX_GAIN] * (TIERS - len(tiers))
        given = [(self.sets[gain], slice(at, at + 2 * CHUNK)) for gain, at in zip(gains, first, strict=True)]
        return ShapeTables(
            *(
                np.concatenate([getattr(tables, name)[rows] for tables, rows in given])
                for name in ("freq", "start", "zero")
            )
        )

    def rates(self, latents: npt.NDArray[np.int32], quality: int) -> npt.NDArray[np.float64]:
        """[GAINS] bits that latents [count, CHUNK] of a quality level take with the tables of every gain."""
        channel = np.arange(CHUNK) * (2 * RATE_SPAN)
        at = np.clip(2 * latents + RATE_SPAN, 0, 2 * RATE_SPAN - 2) + channel
        histogram = np.bincount(at.reshape(-1), minlength=CHUNK * 2 * RATE_SPAN).reshape(CHUNK, -1)
        own = slice(quality * CHUNK, (quality + 1) * CHUNK)
        return np.array([float((tables.rate[own].astype(np.float64) * histogram).sum()) for tables in self.sets])

    def native_rate(self, gain: int) -> npt.NDArray[np.float64]:
        """[QUALITIES] bits per latent when latents follow the tables."""
        p = self.sets[gain].freq[::2] / TOTAL
        entropy = -(p * np.log2(np.where(p > 0, p, 1))).sum(1)
        return np.asarray(entropy.reshape(QUALITIES, CHUNK).mean(1))

    @classmethod
    def from_pmf(cls, pmf: list[npt.NDArray[np.float64]]) -> LatentTables:
        """Integer tables from probabilities [GAINS][TABLE_LEVELS, 2 * MAX_HALF_WIDTH + 1] of k from -MAX_HALF_WIDTH on.

        A table reaches as far as a symbol's share is worth its entry.
        """
        widths, rows = [], []
        for p in (row for rows in pmf for row in rows):
            reach = np.abs(np.flatnonzero(p * TOTAL > 0.5) - MAX_HALF_WIDTH)
            width = int(np.clip(reach.max(initial=1), 1, MAX_HALF_WIDTH))
            inside = p[MAX_HALF_WIDTH - width : MAX_HALF_WIDTH + width + 1]
            shares = np.append(inside, max(1 - inside.sum(), 0.5 / TOTAL))
            widths.append(width)
            rows.append(normalise(shares / shares.sum()))
        half_width = np.array(widths, np.uint8).reshape(GAINS, TABLE_LEVELS)
        return cls(half_width, np.concatenate(rows).astype(np.uint16))

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], where: str) -> LatentTables:
        """Check what a codec file holds.

        Raises:
            FormatError: it holds no such tables.
        """
        for name, dtype, shape in (
            ("latents.width", np.uint8, (GAINS, TABLE_LEVELS)),
            ("latents.freq", np.uint16, None),
        ):
            if name not in arrays:
                raise FormatError(where, f"no tensor {name}", "one")
            array = arrays[name]
            if array.dtype != dtype or (array.shape != shape if shape else array.ndim != 1):
                wanted = f"{np.dtype(dtype)} {list(shape) if shape else 'of one axis'}"
                raise FormatError(f"{where}, {name}", f"{array.dtype} {list(array.shape)}", wanted)
        tables = cls(arrays["latents.width"], arrays["latents.freq"])
        tables.sets  # noqa: B018  checks them
        return tables
