"""Partial sums: what one chunk of the items says about one group of weights, stored until all chunks are there.

An object is named by what it is the answer to and by the digest of its header, which holds the digest of every part of
it: a run that is started again finds what was finished, and no byte is believed that was not written by such a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError, IntegrityError, NwcError
from nwc_core.safetensors_header import Header, build_header, parse_header
from nwc_core.store import Store
from nwc_core.strict_json import shown
from nwc_workflows.calibration.sums import WeightSums
from nwc_workflows.calibration.triangles import pack, triangle_size

PREFIX = "partial-"
_DIGITS = 32  # of a digest, in names
_SUFFIX = ".safetensors"
_FLOAT32, _ITEMSIZE = 4, 8  # bytes; the latter of float64 and int64


@dataclass(frozen=True)
class MatrixSums:
    """As `WeightSums`, of one matrix: hessian float32 [n(n+1)/2] packed, rows float64 [m], counts int64 [m].

    A chunk's Hessian is rounded to float32 once, which is far below its sampling error and halves what is stored.
    """

    hessian: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    positions: int


def partial_prefix(fingerprint: str, group: Iterable[str], start: int, stop: int) -> str:
    """How the name of the partial sums of these weights over the items [start, stop) begins.

    Args:
        fingerprint: of the calibration.
        group: names of the weights.
    """
    question = json.dumps([fingerprint, list(group), start, stop])
    return f"{PREFIX}{hashlib.sha256(question.encode()).hexdigest()[:_DIGITS]}-"


def write_partial(store: Store, prefix: str, sums: dict[str, WeightSums]) -> str:
    """Store sums, which are taken out of the dict one by one, to free their memory. Returns the object's key."""
    parts: list[tuple[str, list[bytes]]] = []
    for name in list(sums):
        of = sums.pop(name)
        parts += [(_part_name(name, number), _part(of, number)) for number in range(len(of.positions))]
    metadata = {name: _digest(arrays) for name, arrays in parts}
    header = build_header([(name, "U8", (sum(map(len, arrays)),)) for name, arrays in parts], metadata)
    key = f"{prefix}{hashlib.sha256(header).hexdigest()[:_DIGITS]}{_SUFFIX}"
    store.put_stream(key, _stream(header, parts))
    return key


def find_partials(store: Store) -> dict[str, str]:
    """Keys of the partial sums that are there whole, by the beginning of their names."""
    found = {}
    for info in store.list(PREFIX):
        try:
            Partial.open(store, info.key)
        except NwcError:  # not ours, or damaged: computed again
            continue
        found[info.key[: len(PREFIX) + _DIGITS + 1]] = info.key
    return found


@dataclass(frozen=True)
class Partial:
    """An object of partial sums, its header read and checked."""

    store: Store
    key: str
    header: Header

    @classmethod
    def open(cls, store: Store, key: str) -> Partial:
        """Read the header.

        Raises:
            FormatError: it does not fit the object's size, or is none.
            IntegrityError: it is not the one that the name promises.
        """
        where = f"{store.uri}/{key}"
        size = store.size(key)
        header = parse_header(lambda start, stop: store.get_range(key, start, stop), size, where)
        found = hashlib.sha256(store.get_range(key, 0, header.data_start)).hexdigest()[:_DIGITS]
        if key.removesuffix(_SUFFIX)[-_DIGITS:] != found:
            raise IntegrityError(where, f"a header of SHA-256 {found}…", "the one that the name promises")
        return cls(store, key, header)

    def read(self, name: str, number: int, m: int, n: int) -> MatrixSums:
        """The sums of one matrix [m, n] of a weight.

        Raises:
            FormatError: there is none of that shape.
            IntegrityError: the bytes are not those that were written.
        """
        where = f"{self.store.uri}/{self.key}: weight {shown(name)}"
        part = _part_name(name, number)
        info = self.header.tensors.get(part)
        first = _FLOAT32 * triangle_size(n)
        nbytes = first + _ITEMSIZE * (2 * m + 1)
        if info is None or info.stop - info.start != nbytes:
            raise FormatError(
                where, "nothing" if info is None else f"{info.stop - info.start} bytes", f"{nbytes} bytes"
            )
        data = self.store.get_range(self.key, info.start, info.stop)
        if hashlib.sha256(data).hexdigest() != self.header.metadata.get(part):
            raise IntegrityError(where, "other bytes", "those that were written; delete this object and run again")
        hessian, rows = np.frombuffer(data[:first], "<f4"), np.frombuffer(data[first:], "<f8", m)
        whole = np.frombuffer(data[first + _ITEMSIZE * m :], "<i8")
        return MatrixSums(hessian, rows, whole[:m], int(whole[m]))


def _part_name(name: str, number: int) -> str:
    return f"{name}#{number}"


def _part(sums: WeightSums, number: int) -> list[bytes]:
    return [
        pack(sums.hessian[number].numpy()).astype("<f4").tobytes(),
        sums.rows[number].numpy().astype("<f8", copy=False).tobytes(),
        sums.counts[number].numpy().astype("<i8", copy=False).tobytes(),
        int(sums.positions[number]).to_bytes(_ITEMSIZE, "little"),
    ]


def _digest(arrays: list[bytes]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array)
    return digest.hexdigest()


def _stream(header: bytes, parts: list[tuple[str, list[bytes]]]) -> Iterator[bytes]:
    yield header
    for _, arrays in parts:
        yield from arrays
