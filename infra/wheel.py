"""The nwc that runs here as a wheel, so that a cluster's job runs the very same code.

Promises: an editable checkout and an ordinary installation of the same files give the same bytes, in which neither time
nor machine leaves a trace; nothing is built, nothing is asked of a package index, and the checkout isn't written to.

A wheel is a zip of the packages and of the folder that describes them (its name, its entry points): all of it is there
already wherever nwc runs. https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from nwc_core.errors import NwcError, UsageError

NAME = "nwc"
PACKAGES = ("nwc_core", "nwc_infra", "nwc_workflows")
# What running leaves behind beside the code: compiled for this machine, useless or wrong on another.
_LEFT_BEHIND = (".pyc", ".nbi", ".nbc")
_DESCRIPTION = ("METADATA", "entry_points.txt")
_TAG = "py3-none-any"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can express
_MODE = 0o100644 << 16


def write_wheel(folder: Path) -> Path:
    """Writes nwc-VERSION-py3-none-any.whl into a folder.

    Raises:
        NwcError: this nwc was not installed, so that nothing says what its version and entry points are.
    """
    installed = _installation()
    stem = f"{NAME}-{installed.version}"
    files = dict(_package_files())
    files |= {f"{stem}.dist-info/{name}": text.encode() for name, text in _description(installed)}
    record = f"{stem}.dist-info/RECORD"
    files[record] = _record(files, record).encode()
    path = folder / f"{stem}-{_TAG}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _MODE
            entry.create_system = 3  # Unix, whatever wrote it
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return path


def _installation() -> Distribution:
    """What pip knows of nwc. A checkout's egg-info, which is found where that is the current folder, is not that."""
    for found in distributions(name=NAME):
        if found.read_text("METADATA") is not None:
            return found
    raise NwcError(f"{NAME}: found no installation to make a wheel of; wanted one (pip install)")


def unpack_wheel(wheel: Path, folder: Path) -> list[Path]:
    """Unpacks a wheel of nwc; gives the top-level folders, each of which is importable from `folder` or describes it.

    Raises:
        UsageError: the file is no wheel, or one of something else.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{wheel}: found no wheel that can be read ({error}); wanted one of {NAME}") from error
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    missing = {*PACKAGES} - {path.name for path in found}
    if missing or not any(path.name.startswith(f"{NAME}-") and path.suffix == ".dist-info" for path in found):
        names = ", ".join(path.name for path in found) or "nothing"
        raise UsageError(f"{wheel}: found a wheel of {names}; wanted one of {NAME}, with {', '.join(PACKAGES)}")
    return found


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Every file of the packages as they are imported here: name in the wheel, and content; in order of the names."""
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise NwcError(f"{package}: found no package of that name; wanted the folder that it is imported from")
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
            inside = path.relative_to(root)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            if path.is_file() and not hidden and path.suffix not in _LEFT_BEHIND:
                yield f"{package}/{inside.as_posix()}", path.read_bytes()


def _description(installed: Distribution) -> Iterator[tuple[str, str]]:
    for name in _DESCRIPTION:
        text = installed.read_text(name)
        if text is not None:
            yield name, text
    yield "WHEEL", f"Wheel-Version: 1.0\nGenerator: {NAME}\nRoot-Is-Purelib: true\nTag: {_TAG}\n"


def _record(files: dict[str, bytes], record: str) -> str:
    def digest(data: bytes) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

    lines = [f"{name},sha256={digest(data)},{len(data)}" for name, data in files.items()]
    return "\n".join([*lines, f"{record},,"]) + "\n"
