"""An array of an npz file, read row by row: the sizes in its headers are compared, and memory holds what is asked for.

numpy's own reader would make room for whatever shape a header claims, and would unpack a member as a whole.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError


@dataclass(frozen=True)
class NpzMember:
    """An open array of numbers, its rows still to be read; `where` names it in errors."""

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: IO[bytes]

    def rows(self, count: int) -> npt.NDArray[Any]:
        """The next rows, [count, *shape[1:]].

        Raises:
            FormatError: the file is damaged, or has no more.
        """
        shape = (count, *self.shape[1:])
        nbytes = math.prod(shape) * self.dtype.itemsize
        try:
            data = self.stream.read(nbytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise FormatError(self.where, f"damage ({error})", "an intact npz file") from None
        if len(data) != nbytes:
            raise FormatError(self.where, f"{len(data)} bytes", f"{nbytes} for rows {list(shape)}")
        return np.frombuffer(data, self.dtype).reshape(shape)


@contextmanager
def open_member(path: Path, name: str) -> Iterator[NpzMember]:
    """An array of an npz file.

    Raises:
        FormatError: no npz file, no such array, one of Python objects, or headers that contradict each other.
    """
    where = f"{path}: {name}"
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            info = archive.getinfo(f"{name}.npy")
            stream = stack.enter_context(archive.open(info))
            shape, dtype = _header(stream)
            nbytes = info.file_size - stream.tell()
        except KeyError:
            raise FormatError(str(path), f"no array {name!r}", "images and labels") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise FormatError(where, f"damage ({error})", "an intact npz file") from None
        if dtype.hasobject or not shape or math.prod(shape) * dtype.itemsize != nbytes:
            raise FormatError(where, f"{dtype} {list(shape)} in {nbytes} bytes", "an array of numbers of that size")
        yield NpzMember(where, shape, dtype, stream)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a .npy stream; raises ValueError."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy version {version}")
    if fortran:
        raise ValueError("an array in Fortran order")
    return shape, dtype
