"""The prior in a codec file: what a prediction leaves of its frequencies, in one Zstandard frame.

Each table is predicted from that of the level before it (see `nwc_core.stretch`); the differences are small and compress to a
tenth of the tables. The frequencies of k = 0 are not stored: every table has a known sum. The bytes are specified in
artifact/SPEC.md, section "Tables".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError
from nwc_core.prior import MAX_HALF_WIDTH, TABLE_LEVELS, TOTAL, Prior
from nwc_core.stretch import Integers, Stretch
from nwc_core.zstd_frame import pack, unpack

# Bounds on what a small frame unpacks to: so many shapes like those of the default codec fit.
MAX_SHAPES, MAX_NUMBERS = 32, 1 << 16
_MAX_NBYTES = 1 + MAX_SHAPES * TABLE_LEVELS + 2 * MAX_NUMBERS
_FIRST_ESCAPE = 2  # predicted at level 0
_ZSTD_LEVEL = 19  # 11 % smaller than level 9, in milliseconds


def pack_prior(prior: Prior) -> npt.NDArray[np.uint8]:
    """The frame that holds the tables, as a flat array of bytes.

    Raises:
        FormatError: the tables are not valid, or too large for a codec file.
    """
    width = prior.half_width
    count = _count(width)
    if prior.shapes > MAX_SHAPES or count > MAX_NUMBERS:
        wanted = f"at most {MAX_SHAPES} and {MAX_NUMBERS} in a codec file"
        raise FormatError("codec, prior", f"{prior.shapes} shapes, {count} numbers", wanted)
    prior.tables  # noqa: B018  checks them; what does not sum up would not come back
    points, escape = _dense(prior)
    inside = _inside(width)
    stretch = Stretch(points.shape[2])
    left = np.empty((prior.shapes, TABLE_LEVELS, points.shape[2] - 2), np.int64)
    before = np.zeros((prior.shapes, points.shape[2]), np.int64)
    for level in range(TABLE_LEVELS):
        left[:, level] = points[:, level, 2:] - stretch(before)
        before = points[:, level]
    escape_left = np.diff(escape, axis=1, prepend=_FIRST_ESCAPE)
    # Point by point, so that one point's differences at all levels, which are alike, lie side by side.
    numbers = np.concatenate([escape_left.reshape(-1), left.transpose(2, 0, 1)[inside.transpose(2, 0, 1)]])
    zigzag = (numbers << 1 ^ numbers >> 63).astype("<u2")
    planes = np.ascontiguousarray(zigzag.view(np.uint8).reshape(-1, 2).T)
    steps = np.diff(width, axis=1, prepend=np.uint8(0))  # modulo 256
    content = bytes([prior.shapes]) + steps.tobytes() + planes.tobytes()
    return np.frombuffer(pack(content, _ZSTD_LEVEL), np.uint8)


def unpack_prior(frame: npt.NDArray[np.uint8], where: str) -> Prior:
    """The tables that `pack_prior` packed; `where` names the array in errors.

    Raises:
        FormatError: a damaged frame, one of another size than its widths ask for, or tables that are none.
    """
    content = np.frombuffer(unpack(frame.tobytes(), _MAX_NBYTES, where), np.uint8)
    shapes = int(content[0]) if content.size else 0
    first = 1 + shapes * TABLE_LEVELS
    if not 1 <= shapes <= MAX_SHAPES or content.size < first:
        wanted = f"the number of shapes, 1 to {MAX_SHAPES}, and {TABLE_LEVELS} half widths for each"
        raise FormatError(where, f"{content.size} bytes for {shapes} shapes", wanted)
    width = np.cumsum(content[1:first].reshape(shapes, TABLE_LEVELS), axis=1, dtype=np.uint8)
    if int(width.max()) > MAX_HALF_WIDTH:
        raise FormatError(where, f"half width {width.max()}", f"at most {MAX_HALF_WIDTH}")
    count = _count(width)
    if count > MAX_NUMBERS:
        raise FormatError(where, f"half widths that ask for {count} numbers", f"at most {MAX_NUMBERS}")
    if content.size - first != 2 * count:
        raise FormatError(where, f"{content.size - first} bytes of numbers", f"{2 * count} for these half widths")
    low, high = content[first:].reshape(2, count).astype(np.int64)
    zigzag = low | high << 8
    numbers = zigzag >> 1 ^ -(zigzag & 1)
    escape = _FIRST_ESCAPE + np.cumsum(numbers[: 2 * width.size].reshape(shapes, TABLE_LEVELS, 2), axis=1)
    points = _points(width, escape, numbers[2 * width.size :])
    _check(width, points, escape, where)
    return Prior(width, _flat(width, points, escape))


def _count(width: npt.NDArray[np.uint8]) -> int:
    """How many numbers are stored: all escapes, and the points of every table but its k = 0."""
    return 2 * width.size + 2 * int(width.sum(dtype=np.int64))


def _size(width: npt.NDArray[np.uint8]) -> int:
    """How many points n = 0, 1, ... the widest table has."""
    return 2 * int(width.max()) + 2


def _inside(width: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """[shapes, levels, size - 2] which of the points from n = 2 on the tables have."""
    return np.arange(2, _size(width)) < 2 * width[:, :, None].astype(np.int64) + 2


def _points(width: npt.NDArray[np.uint8], escape: Integers, numbers: Integers) -> Integers:
    """[shapes, levels, size] frequencies of n = 2k + q, zero where a table ends; damaged ones may hold anything."""
    inside, size = _inside(width), _size(width)
    left = np.zeros((size - 2, *width.shape), np.int64)
    left[inside.transpose(2, 0, 1)] = numbers
    stretch, points = Stretch(size), np.zeros((*width.shape, size), np.int64)
    before = points[:, 0]
    for level in range(TABLE_LEVELS):
        now = points[:, level]
        now[:, 2:] = np.where(inside[:, level], stretch(before) + left[:, :, level].T, 0)
        now[:, 0] = TOTAL - escape[:, level, 0] - 2 * now[:, 2::2].sum(1)
        now[:, 1] = (TOTAL - escape[:, level, 1] - 2 * now[:, 3::2].sum(1)) >> 1
        before = now
    return points


def _check(width: npt.NDArray[np.uint8], points: Integers, escape: Integers, where: str) -> None:
    """Frequencies of 1 and more that sum to TOTAL. A level is right only if those before it are; what overflows is behind."""
    least = np.minimum(points[:, :, :2].min(2), escape.min(2))
    least = np.minimum(least, np.where(_inside(width), points[:, :, 2:], 1).min(2, initial=1))
    wrong = np.argwhere((least < 1) | (escape[:, :, 1] & 1 == 1))
    if wrong.size:
        shape, level = wrong[wrong[:, 1].argmin()]
        found = "a frequency below 1" if least[shape, level] < 1 else f"sum {TOTAL - 1}"
        raise FormatError(f"{where}, shape {shape}, level {level}", found, f"frequencies from 1 on with sum {TOTAL}")


def _places(width: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """[shapes, levels, 2, k] which of k = 0 ... K + 1 the tables of q = 0 and 1 have, and where K + 1 is, the escape's."""
    k, last = np.arange(int(width.max()) + 2), width[:, :, None, None].astype(np.int64).repeat(2, axis=2) + 1
    return k <= last, k == last


def _dense(prior: Prior) -> tuple[Integers, Integers]:
    """(points [shapes, levels, size], zero where a table ends; escapes [shapes, levels, 2])."""
    has, escape = _places(prior.half_width)
    table = np.zeros(has.shape, np.int64)
    table[has] = prior.halves
    escapes = table[escape].reshape(has.shape[:3])
    table[escape] = 0
    return table[..., :-1].swapaxes(2, 3).reshape(*has.shape[:2], -1), escapes


def _flat(width: npt.NDArray[np.uint8], points: Integers, escapes: Integers) -> npt.NDArray[np.uint16]:
    """As `Prior.halves`."""
    has, escape = _places(width)
    table = np.zeros(has.shape, np.uint16)
    table[..., :-1] = points.reshape(*width.shape, -1, 2).swapaxes(2, 3)
    table[escape] = escapes.reshape(-1)
    return table[has]
