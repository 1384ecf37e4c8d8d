"""Kernels work where no folder can be cached in: an installation owned by root, a user without a home."""

from __future__ import annotations

from typing import Any

import pytest

from nwc_core import kernels


def test_without_a_cache_folder_a_kernel_is_compiled_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with = kernels.njit

    def njit(**options: Any) -> Any:
        def wrap(function: Any) -> Any:
            if options.get("cache"):
                raise RuntimeError("cannot cache function 'twice': no locator available")
            return compile_with(**options)(function)

        return wrap

    monkeypatch.setattr(kernels, "njit", njit)
    twice = kernels.kernel(lambda x: 2 * x)
    assert twice(21) == 42
    assert twice.signatures  # compiled, not run by the interpreter
