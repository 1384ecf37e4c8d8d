"""Arrays into an object named by its content, and the references to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.safetensors_header import build_header
from nwc_core.store import Store
from nwc_workflows.calibration.record import FLOAT_NBYTES, ArrayRef

Arrays = dict[tuple[str, str], list[npt.NDArray[np.float32]]]
_PREFIX, _SUFFIX = "statistics-", ".safetensors"
_DIGITS = 32  # of a digest, in names: as in an artifact


def store_arrays(store: Store, arrays: Mapping[Any, Any]) -> tuple[dict[str, int], dict[tuple[str, str], ArrayRef]]:
    """Store arrays as the tensors NAME/hessian and NAME/rows of one safetensors object, [matrices, elements] each.

    Args:
        store: takes the object.
        arrays: by weight and kind, one array for each matrix, all of one length.

    Returns:
        The object's size by its key, both empty without arrays; and where each array is.
    """
    if not arrays:
        return {}, {}
    header = build_header([(f"{name}/{kind}", "F32", (len(of), len(of[0]))) for (name, kind), of in arrays.items()])
    whole = hashlib.sha256(header)
    places: dict[tuple[str, str], tuple[int, int, str]] = {}
    offset = len(header)
    for key, of in arrays.items():
        digest = hashlib.sha256()
        for array in of:
            digest.update(array.data)
            whole.update(array.data)
        length = FLOAT_NBYTES * sum(map(len, of))
        places[key] = (offset, length, digest.hexdigest())
        offset += length
    name = f"{_PREFIX}{whole.hexdigest()[:_DIGITS]}{_SUFFIX}"
    store.put_stream(name, _stream(header, arrays))
    refs = {
        key: ArrayRef(object=name, offset=start, length=length, sha256=sha256)
        for key, (start, length, sha256) in places.items()
    }
    return {name: offset}, refs


def _stream(header: bytes, arrays: Mapping[Any, Any]) -> Iterator[bytes | memoryview]:
    yield header
    for of in arrays.values():
        for array in of:
            yield memoryview(array).cast("B")
