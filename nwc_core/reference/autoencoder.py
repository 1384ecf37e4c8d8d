"""The trained autoencoder: chunks of unit variance to integer latents and back, at one of four quality levels and any gain.

A gain multiplies chunks before analysis and divides them after synthesis: a larger one is a finer quantiser. At gain 1 the
autoencoder is what was trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.quantise import Unsuitable
from nwc_core.reference.network import Network
from nwc_core.reference.recipe import GAIN_STEP, MAX_GAIN

MAX_LATENT = 1 << 20  # far above any that is not an outlier's; the entropy coder's indices end at 2^22


@dataclass(frozen=True)
class Setting:
    """How finely chunks are coded.

    Attributes:
        quality: level of the networks, 0 to QUALITIES - 1.
        log2_gain: -MAX_GAIN * GAIN_STEP to MAX_GAIN * GAIN_STEP, a finer quantiser the larger.
    """

    quality: int
    log2_gain: float

    def finer(self, octaves: float) -> Setting:
        """By a factor of 2^octaves, as far as gains go."""
        reach = MAX_GAIN * GAIN_STEP
        return Setting(self.quality, float(np.clip(self.log2_gain + octaves, -reach, reach)))


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """See above.

    Attributes:
        analysis, synthesis: the networks.
        embedding: [QUALITIES, width] float32, what both scale their features by.
        centre: [QUALITIES, CHUNK] float32, medians that latents are rounded about.
    """

    analysis: Network
    synthesis: Network
    embedding: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float32]

    def quantise(self, chunks: npt.NDArray[np.float32], setting: Setting, threads: int = 1) -> npt.NDArray[np.int32]:
        """[count, CHUNK] latents of as many chunks, between -MAX_LATENT and MAX_LATENT.

        Raises:
            Unsuitable: the network does not give finite numbers for these chunks.
        """
        quality = setting.quality
        y = self.analysis(chunks * np.float32(2.0**setting.log2_gain), self.embedding[quality], threads)
        y -= self.centre[quality]
        if not np.isfinite(y).all():
            raise Unsuitable
        return np.clip(np.rint(y), -MAX_LATENT, MAX_LATENT).astype(np.int32)

    def reconstruct(self, latents: npt.NDArray[np.int32], quality: int, threads: int = 1) -> npt.NDArray[np.float32]:
        """[count, CHUNK] chunks times their gain, bit for bit the same everywhere."""
        return self.synthesis(latents.astype(np.float32) + self.centre[quality], self.embedding[quality], threads)
