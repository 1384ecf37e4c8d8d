"""The chunks of a matrix, ready to be quantised once it is decided how finely.

Where all errors count alike, all chunks are quantised side by side. Where the loss is  e H e'  for each row's error e, it is
done column by column with feedback (`nwc_core.feedback`): with H = U D U', U unit upper triangular, column j has the target
t_j = w_j + sum_{i<j} e_i U_ij , e_i = w_i - w^_i .

Published: block LDLQ over 128 columns, from the last to the first, which is without feedback inside of a block. Chunks lie
along a column, so single columns are possible, 1 dB better on a layer of MiniLM; and so is any order: with the most important
column first, for whose error all others can make up, it is another 0.1 to 0.7 dB on ten of its matrices (as "act order" does
for GPTQ). Decoders see none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nwc_core.blas import one_thread
from nwc_core.reference.autoencoder import Autoencoder, Setting
from nwc_core.reference.recipe import CHUNK
from nwc_core.threads import map_threads

# Chunks that the rate is first measured on; the networks are slow, so few, but more where a second pass would be dear.
_PILOT_SHARE, _MIN_PILOT, _MAX_PILOT = 1 / 16, 1 << 11, 1 << 14
_BANDS = 64  # worked off at a time with feedback, as many as the networks take side by side
_BLOCK = 32  # columns between matrix products


class Quantiser(Protocol):
    """Chunks to quantise, each in one tier."""

    @property
    def tier(self) -> npt.NDArray[np.uint8]:
        """[count] of each chunk."""

    def sample(self) -> Quantiser | None:
        """Evenly spaced ones of the chunks, for a first measure of the rate; None where all are as few."""

    def latents(self, autoencoder: Autoencoder, settings: Sequence[Setting], threads: int) -> npt.NDArray[np.int32]:
        """[count, CHUNK] with the setting of each tier.

        Raises:
            Unsuitable: see `Autoencoder.quantise`.
        """


@dataclass(frozen=True, eq=False)
class Independent:
    """All errors count alike.

    Attributes:
        chunks: [count, CHUNK].
        tier: [count].
    """

    chunks: npt.NDArray[np.float32]
    tier: npt.NDArray[np.uint8]

    def sample(self) -> Independent | None:
        count = int(np.clip(len(self.chunks) * _PILOT_SHARE, _MIN_PILOT, _MAX_PILOT))
        if count >= len(self.chunks):
            return self
        at = np.linspace(0, len(self.chunks) - 1, count).round().astype(np.int64)
        return Independent(self.chunks[at], self.tier[at])

    def latents(self, autoencoder: Autoencoder, settings: Sequence[Setting], threads: int) -> npt.NDArray[np.int32]:
        out = np.empty(self.chunks.shape, np.int32)
        for index, setting in enumerate(settings):
            if (at := np.flatnonzero(self.tier == index)).size:
                out[at] = autoencoder.quantise(self.chunks[at], setting, threads)
        return out


@dataclass(frozen=True, eq=False)
class Compensated:
    """Errors are fed to the columns that follow.

    Attributes:
        chunks: [bands, n, CHUNK].
        rows: in use of each band; others are fillers whose errors are nobody's.
        column: [n] the tier of each.
        order: [n] the columns in the order in which they are quantised.
        upper: [n, n] U of the columns in that order, of which only what lies above the diagonal is used.
    """

    chunks: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    column: npt.NDArray[np.uint8]
    order: npt.NDArray[np.int64]
    upper: npt.NDArray[np.float32]

    @property
    def tier(self) -> npt.NDArray[np.uint8]:
        return np.tile(self.column, len(self.chunks))

    def sample(self) -> Compensated | None:
        if len(self.chunks) <= _BANDS:
            return None
        at = np.linspace(0, len(self.chunks) - 1, _BANDS).round().astype(np.int64)
        return replace(self, chunks=self.chunks[at], rows=self.rows[at])

    def latents(self, autoencoder: Autoencoder, settings: Sequence[Setting], threads: int) -> npt.NDArray[np.int32]:
        out = np.empty(self.chunks.shape, np.int32)

        def part(index: int) -> None:
            self._some(slice(index * _BANDS, (index + 1) * _BANDS), autoencoder, settings, out)

        with one_thread():
            map_threads(part, range(-(-len(self.chunks) // _BANDS)), threads)
        return out.reshape(-1, CHUNK)

    def _some(
        self, bands: slice, autoencoder: Autoencoder, settings: Sequence[Setting], out: npt.NDArray[np.int32]
    ) -> None:
        """Fill some bands of `out` [bands, n, CHUNK]; the columns of a band do not depend on other bands."""
        weight = self.chunks[bands].transpose(1, 0, 2)[self.order]  # [n, bands, CHUNK]
        target, used = weight.copy(), np.arange(CHUNK) < self.rows[bands, None]
        n = len(weight)
        for first in range(0, n, _BLOCK):
            stop = min(first + _BLOCK, n)
            errors = np.empty((stop - first, *weight.shape[1:]), np.float32)
            for j in range(first, stop):
                setting = settings[self.column[self.order[j]]]
                latents = autoencoder.quantise(target[j], setting)
                out[bands, self.order[j]] = latents
                decoded = autoencoder.reconstruct(latents, setting.quality) / np.float32(2.0**setting.log2_gain)
                errors[j - first] = np.where(used, weight[j] - decoded, 0)
                target[j + 1 : stop] += self.upper[j, j + 1 : stop, None, None] * errors[j - first]
            fed = self.upper[first:stop, stop:].T @ errors.reshape(stop - first, -1)
            target[stop:] += fed.reshape(-1, *weight.shape[1:])
