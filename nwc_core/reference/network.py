"""Analysis and synthesis networks, evaluated to the same bits on every machine and on any number of threads.

Both are Linear CHUNK to width, `depth` residual blocks x + ReLU(LayerNorm(Linear(x))), each scaled feature by feature for the
quality level, Linear width to CHUNK. Weights are float16, everything else is float32: additions, multiplications,
divisions and square roots, each rounded once, in a fixed order. A linear layer starts from its bias and adds its
inputs' products one after the other; a mean adds features one after the other. The loops run over LANES chunks side by
side, which share no sum, so that they vectorise without changing any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError
from nwc_core.kernels import kernel
from nwc_core.reference.recipe import CHUNK, NORM_EPSILON
from nwc_core.threads import map_threads

_LANES = 64  # chunks side by side
_INPUTS = 64  # of a layer, worked off at a time: what they need of x stays in the fastest cache
_OUTPUTS = (
    4  # of a layer, computed side by side, so that x is loaded once for all of them; inputs are unrolled as often
)
_PIECE = 4096  # chunks per task of a thread
MAX_WIDTH, MAX_DEPTH = 1024, 16
# depth * width^2: that of the published 4 blocks of 512. A weight takes no longer to decode than there, whatever a file
# claims, and both halves fit into a codec file.
MAX_BLOCK_WEIGHTS = 4 * 512 * 512
WIDTH_STEP = 16  # widths are multiples: the kernel has no code for what is left over


@kernel
def _linear(x, weight, bias, out):  # type: ignore[no-untyped-def]
    n_out, n_in = weight.shape
    for o in range(n_out):
        for b in range(_LANES):
            out[o, b] = bias[o]
    for first in range(0, n_in, _INPUTS):
        last = min(first + _INPUTS, n_in)
        for o in range(0, n_out, _OUTPUTS):
            for i in range(first, last, 4):
                a0, a1, a2, a3 = weight[o, i], weight[o, i + 1], weight[o, i + 2], weight[o, i + 3]
                b0, b1, b2, b3 = weight[o + 1, i], weight[o + 1, i + 1], weight[o + 1, i + 2], weight[o + 1, i + 3]
                c0, c1, c2, c3 = weight[o + 2, i], weight[o + 2, i + 1], weight[o + 2, i + 2], weight[o + 2, i + 3]
                d0, d1, d2, d3 = weight[o + 3, i], weight[o + 3, i + 1], weight[o + 3, i + 2], weight[o + 3, i + 3]
                for b in range(_LANES):
                    x0, x1, x2, x3 = x[i, b], x[i + 1, b], x[i + 2, b], x[i + 3, b]
                    out[o, b] = out[o, b] + a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                    out[o + 1, b] = out[o + 1, b] + b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                    out[o + 2, b] = out[o + 2, b] + c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
                    out[o + 3, b] = out[o + 3, b] + d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3


@kernel
def _residual(branch, weight, bias, epsilon, scale, features):  # type: ignore[no-untyped-def]
    """features = (features + ReLU(LayerNorm(branch))) * scale."""
    width = branch.shape[0]
    mean = np.zeros(_LANES, np.float32)
    variance = np.zeros(_LANES, np.float32)
    for f in range(width):
        for b in range(_LANES):
            mean[b] += branch[f, b]
    for b in range(_LANES):
        mean[b] /= np.float32(width)
    for f in range(width):
        for b in range(_LANES):
            d = branch[f, b] - mean[b]
            variance[b] += d * d
    for b in range(_LANES):
        variance[b] = np.float32(1) / math.sqrt(variance[b] / np.float32(width) + epsilon)
    for f in range(width):
        for b in range(_LANES):
            y = (branch[f, b] - mean[b]) * variance[b] * weight[f] + bias[f]
            features[f, b] = (features[f, b] + (y if y > np.float32(0) else np.float32(0))) * scale[f]


@kernel
def _forward(  # type: ignore[no-untyped-def]
    x, inner, inner_bias, block, block_bias, norm, norm_bias, outer, outer_bias, scale, epsilon, out
):
    count, chunk = x.shape
    width = inner.shape[0]
    columns = np.zeros((chunk, _LANES), np.float32)
    features = np.empty((width, _LANES), np.float32)
    branch = np.empty((width, _LANES), np.float32)
    for first in range(0, count, _LANES):
        used = min(_LANES, count - first)
        for b in range(used):
            for c in range(chunk):
                columns[c, b] = x[first + b, c]
        _linear(columns, inner, inner_bias, features)
        for d in range(block.shape[0]):
            _linear(features, block[d], block_bias[d], branch)
            _residual(branch, norm[d], norm_bias[d], epsilon, scale, features)
        _linear(features, outer, outer_bias, columns)
        for b in range(used):
            for c in range(chunk):
                out[first + b, c] = columns[c, b]


@dataclass(frozen=True, eq=False)
class Network:
    """One half, float32 throughout.

    Attributes:
        inner, inner_bias: [width, CHUNK], [width].
        block, block_bias: [depth, width, width], [depth, width].
        norm, norm_bias: [depth, width] both.
        outer, outer_bias: [CHUNK, width], [CHUNK].
    """

    inner: npt.NDArray[np.float32]
    inner_bias: npt.NDArray[np.float32]
    block: npt.NDArray[np.float32]
    block_bias: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float32]
    norm_bias: npt.NDArray[np.float32]
    outer: npt.NDArray[np.float32]
    outer_bias: npt.NDArray[np.float32]

    def __call__(
        self, x: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], threads: int = 1
    ) -> npt.NDArray[np.float32]:
        """[count, CHUNK] outputs for [count, CHUNK] inputs; scale [width] is the embedding of the quality level."""
        out = np.empty_like(x)

        def piece(index: int) -> None:
            part = slice(index * _PIECE, (index + 1) * _PIECE)
            _forward(x[part], *vars(self).values(), scale, np.float32(NORM_EPSILON), out[part])

        map_threads(piece, range(-(-len(x) // _PIECE)), threads)
        return out

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[np.float16]]:
        """What a codec file holds: "`prefix`.inner" and so on."""
        return {f"{prefix}.{name}": array.astype(np.float16) for name, array in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], prefix: str, where: str) -> Network:
        """The inverse, checked.

        Raises:
            FormatError: an array is missing, of another shape than the others ask for, or holds NaN or infinity.
        """
        block = float_array(arrays, f"{prefix}.block", (None, None, None), where)
        depth, width = block.shape[:2]
        if not (1 <= depth <= MAX_DEPTH and WIDTH_STEP <= width <= MAX_WIDTH and width % WIDTH_STEP == 0):
            wanted = f"[1 to {MAX_DEPTH}, width, width], width a multiple of {WIDTH_STEP}, at most {MAX_WIDTH}"
            raise FormatError(f"{where}, {prefix}.block", f"shape {list(block.shape)}", wanted)
        if depth * width * width > MAX_BLOCK_WEIGHTS:
            wanted = f"depth * width^2 of at most {MAX_BLOCK_WEIGHTS}"
            raise FormatError(f"{where}, {prefix}.block", f"depth {depth}, width {width}", wanted)
        shapes = {
            "inner": (width, CHUNK),
            "inner_bias": (width,),
            "block": (depth, width, width),
            "block_bias": (depth, width),
            "norm": (depth, width),
            "norm_bias": (depth, width),
            "outer": (CHUNK, width),
            "outer_bias": (CHUNK,),
        }
        return cls(**{name: float_array(arrays, f"{prefix}.{name}", shape, where) for name, shape in shapes.items()})


def float_array(
    arrays: dict[str, npt.NDArray[Any]], name: str, shape: tuple[int | None, ...], where: str
) -> npt.NDArray[np.float32]:
    """A float16 array of a codec file as float32. None in a shape stands for any size."""
    if name not in arrays:
        raise FormatError(where, f"no tensor {name}", "one")
    array = arrays[name]
    fits = len(shape) == array.ndim and all(w in (None, size) for w, size in zip(shape, array.shape, strict=True))
    if array.dtype != np.float16 or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise FormatError(f"{where}, {name}", f"{array.dtype} {list(array.shape)}", f"float16 [{wanted}]")
    if not np.isfinite(array).all():
        raise FormatError(f"{where}, {name}", "NaN or infinity", "finite numbers")
    return array.astype(np.float32)
