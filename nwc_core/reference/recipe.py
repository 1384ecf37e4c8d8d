"""The fixed numbers of the published recipe, shared by training and coding."""

from __future__ import annotations

CHUNK = 16  # weights of one input column, neighbours along the output dimension; as many latents
QUALITIES = 4
# Weight of the rate in the loss at each quality level: the more a column matters, the less its bits count.
RATE_WEIGHTS = (3.4, 1.2, 0.1, 0.05)
NORM_EPSILON = 1e-5  # of every layer normalisation
# Gains that have entropy tables of their own: up to MAX_GAIN quarters of an octave either way. Two octaves up from the
# highest quality level the latents no longer fit the tables' 253 symbols; two down from the lowest most are zero.
GAIN_STEP, MAX_GAIN = 0.25, 8
GAINS = 2 * MAX_GAIN + 1
