"""Kernels work where no folder can be cached in, and a cache never holds what has changed since."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

import nwc_core
from nwc_core import kernels


def test_without_a_cache_folder_a_kernel_is_compiled_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation owned by root, a user without a home."""

    def nowhere(function: Any) -> None:
        raise RuntimeError("cannot cache function 'twice': no locator available")

    monkeypatch.setattr(kernels, "_Cache", nowhere)
    twice = kernels.kernel(lambda x: 2 * x)
    assert twice(21) == 42
    assert twice.signatures  # compiled, not run by the interpreter


def thrice(x: int) -> int:
    return 3 * x


def test_a_change_of_what_kernels_share_is_a_miss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))

    def compiled() -> Any:
        kernel = kernels.kernel(thrice)
        assert kernel(14) == 42
        return kernel

    assert compiled().stats.cache_misses
    assert compiled().stats.cache_hits
    monkeypatch.setattr(kernels, "_FINGERPRINT", "other constants")
    assert compiled().stats.cache_misses


def _modules_with_kernels() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(nwc_core.__path__, "nwc_core."):
        spec = importlib.util.find_spec(found.name)
        if spec and spec.origin and "@kernel" in Path(spec.origin).read_text():
            yield importlib.import_module(found.name)


def _imported(module: ModuleType) -> dict[str, str]:
    """Name in the module's globals to the module of this package that it comes from."""
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {
        alias.asname or alias.name: str(node.module)
        for node in froms
        for alias in node.names
        if str(node.module).startswith("nwc_core")
    }


def test_kernels_take_nothing_from_other_files_but_from_those_in_the_cache_key() -> None:
    """numba copies constants, intrinsics and other kernels into a kernel, and does not see them change."""
    seen = 0
    shared = {f"nwc_core.{Path(name).stem}" for name in kernels._SHARED}
    for module in _modules_with_kernels():
        imported = _imported(module)
        for name, value in vars(module).items():
            if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__:
                seen += 1
                for used in value.py_func.__code__.co_names:
                    assert imported.get(used, "nwc_core.prior") in shared, f"{module.__name__}.{name} uses {used}"
    assert seen > 10
