"""How kernels are compiled: on first use, without the interpreter lock, and cached where that is possible.

The cache lies beside the source, or in the user's cache folder. A container's user may be able to write neither: then
every process compiles for itself, some seconds, rather than not starting at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function with numba, arguments' types as they come."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": no folder to cache in
        return njit(nogil=True)(function)
