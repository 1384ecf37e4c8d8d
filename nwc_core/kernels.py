"""How kernels are compiled: on first use, without the interpreter lock, and cached where that is possible.

The cache lies beside the source, or in the user's cache folder. A container's user may be able to write neither: then
every process compiles for itself, some seconds, rather than not starting at all.

Compiled code holds copies of the constants, vector operations and other kernels that it uses. numba notices when the
kernel's own file changes; here the files that kernels may also take such things from are made part of the cache's key.
Whatever else a kernel needs to know is passed to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_SHARED = ("dequantise.py", "doubles.py", "prior.py", "rans_kernels.py", "scales.py", "trellis.py", "vector.py")


def _fingerprint() -> str:
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in _SHARED)).hexdigest()


_FINGERPRINT = _fingerprint()


class _Cache(FunctionCache):
    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _FINGERPRINT)  # type: ignore[no-untyped-call]  # numba's


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function with numba, arguments' types as they come."""
    compiled: Any = njit(nogil=True)(function)
    with suppress(RuntimeError):  # "no locator available": no folder to cache in
        # As njit(cache=True) does, with a key that sees more.
        compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]
    return compiled
