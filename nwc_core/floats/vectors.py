"""Scales as bytes: few small integers, in a Rice code that needs no table.

    u8      0 if all are equal, else 1 + the Rice parameter k, at most 16
    zigzag  the common value, or the centre that is subtracted
    varint  bytes of the code, if there is one, and the code

Each number less the centre, as a zigzag z, is z >> k ones, a zero, and the k low bits of z, lowest first; bits fill bytes from
the lowest on, and the last byte is filled up with zeros.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.floats.kernels import read_rice, write_rice
from nwc_core.wire import ByteReader, ByteWriter

_MOST_PARAMETER = 16
_MOST_CENTRE = 1 << 20


def write_vector(out: ByteWriter, values: npt.NDArray[np.int32]) -> None:
    if (values == values[0]).all():
        out.u8(0)
        out.zigzag(int(values[0]))
        return
    centre = int(np.median(values))
    centred = values.astype(np.int64) - centre
    zigzag = np.where(centred >= 0, 2 * centred, -2 * centred - 1)
    sizes = [int((zigzag >> k).sum()) + (1 + k) * values.size for k in range(_MOST_PARAMETER + 1)]
    parameter = int(np.argmin(sizes))
    data = np.zeros(-(-sizes[parameter] // 8), np.uint8)
    write_rice(centred, parameter, data)
    out.u8(1 + parameter)
    out.zigzag(centre)
    out.varint(data.size)
    out.raw(data.tobytes())


def read_vector(reader: ByteReader, size: int, what: str) -> npt.NDArray[np.int32]:
    """`size` numbers; `what` names them in errors."""
    kind, centre = reader.u8(), reader.zigzag()
    if abs(centre) > _MOST_CENTRE or kind > 1 + _MOST_PARAMETER:
        wanted = f"a kind up to {1 + _MOST_PARAMETER}, a centre up to {_MOST_CENTRE}"
        raise reader.fail(f"{what} of kind {kind} around {centre}", wanted)
    if kind == 0:
        return np.full(size, centre, np.int32)
    data = np.frombuffer(reader.raw(reader.varint()), np.uint8)
    values = np.empty(size, np.int64)
    used = read_rice(data, kind - 1, values)
    if used < 0 or -(-used // 8) != data.size:
        raise reader.fail(f"{data.size} bytes of {what}", f"those of {size} numbers")
    if np.abs(values).max() > _MOST_CENTRE:
        raise reader.fail(f"{what} up to {np.abs(values).max()} from their centre", f"at most {_MOST_CENTRE}")
    return (values + centre).astype(np.int32)
