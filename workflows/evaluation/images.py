"""Labelled images to evaluate on: a folder with a sub-folder per class, or an npz file with `images` and `labels`.

Pictures are read batch by batch, so that memory holds one batch whatever a file claims to hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError, UsageError
from nwc_core.strict_json import shown
from nwc_workflows.evaluation.data_files import IMAGE_SUFFIXES, digest_of
from nwc_workflows.evaluation.npz import NpzMember, open_member

Picture = npt.NDArray[np.uint8]  # [height, width, 3], RGB
_MAX_PIXELS = 1 << 26  # of one picture; more is a decompression bomb
_MAX_LABELS = 10_000_000


class Images(Protocol):
    """Pictures in a fixed order.

    Attributes:
        labels: int64 [images], from 0.
        sha256: of the files.
    """

    @property
    def labels(self) -> npt.NDArray[np.int64]: ...

    @property
    def sha256(self) -> str: ...

    def batches(self, size: int, start: int = 0) -> Iterator[list[Picture]]:
        """All pictures from number `start` on, in order, `size` at a time."""
        ...


def open_images(path: Path, most: int | None, label2id: object) -> Images:
    """The images at a path.

    Args:
        most: use so many only: the first of a file, and of a folder the same number of every class, as far as it goes.
        label2id: the model's own numbers of classes, if its config.json has any; else the sub-folders of a folder are
            numbered in the order of their names.

    Raises:
        FormatError: the file or folder is not as it should be.
    """
    return _open_folder(path, most, label2id) if path.is_dir() else _open_npz(path, most)


@dataclass(frozen=True)
class _Npz:
    path: Path
    labels: npt.NDArray[np.int64]
    sha256: str

    def batches(self, size: int, start: int = 0) -> Iterator[list[Picture]]:
        with open_member(self.path, "images") as member:
            for _ in range(start):  # what is packed can only be read in order
                member.rows(1)
            for first in range(start, len(self.labels), size):
                count = min(size, len(self.labels) - first)
                yield list(member.rows(count).astype(np.uint8, copy=False))


@dataclass(frozen=True)
class _Folder:
    files: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    sha256: str

    def batches(self, size: int, start: int = 0) -> Iterator[list[Picture]]:
        for first in range(start, len(self.files), size):
            yield [_read_picture(file) for file in self.files[first : first + size]]


def _open_npz(path: Path, most: int | None) -> _Npz:
    with open_member(path, "images") as images:
        _check_images(path, images)
        count = images.shape[0]
    with open_member(path, "labels") as labels:
        if labels.shape != (count,) or labels.dtype.kind not in "iu" or not 0 < count <= _MAX_LABELS:
            found = f"{labels.dtype} {list(labels.shape)}"
            raise FormatError(f"{path}: labels", found, f"whole numbers, one for each of {count} images")
        read = labels.rows(count if most is None else min(most, count)).astype(np.int64)
    if read.min() < 0:
        raise FormatError(f"{path}: labels", str(read.min()), "numbers from 0")
    return _Npz(path, read, digest_of(path, [path]))


def _check_images(path: Path, images: NpzMember) -> None:
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not 0 < shape[1] * shape[2] <= _MAX_PIXELS:
        raise FormatError(f"{path}: images", f"{images.dtype} {list(shape)}", "uint8 [images, height, width, 3]")


def _open_folder(path: Path, most: int | None, label2id: object) -> _Folder:
    classes = {
        folder.name: sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    numbers = _class_numbers(path, list(classes), label2id)
    # One of each class in turn: the first so many of a folder sorted by class would be of one class.
    turns = zip_longest(*([(file, numbers[name]) for file in files] for name, files in classes.items()))
    chosen = [entry for entry in chain.from_iterable(turns) if entry is not None][:most]
    if not chosen:
        raise FormatError(str(path), "no images", f"sub-folders with {', '.join(IMAGE_SUFFIXES)}")
    files = [file for file, _ in chosen]
    return _Folder(tuple(files), np.array([number for _, number in chosen], np.int64), digest_of(path, files))


def _class_numbers(path: Path, names: list[str], label2id: object) -> dict[str, int]:
    if not isinstance(label2id, dict) or not label2id:
        return {name: i for i, name in enumerate(names)}
    numbers: dict[str, Any] = {name: label2id.get(name) for name in names}
    for name, number in numbers.items():
        if type(number) is not int or number < 0:
            wanted = f"one of the classes in the model's label2id, such as {shown(next(iter(label2id)))}"
            raise FormatError(f"{path}: sub-folder {shown(name)}", "a class that the model has not", wanted)
    return numbers


def _read_picture(path: Path) -> Picture:
    try:
        from PIL import Image
    except ImportError:
        raise UsageError("images in a folder need Pillow: pip install pillow") from None
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise FormatError(str(path), f"{image.width} x {image.height} pixels", f"at most {_MAX_PIXELS}")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(str(path), f"a damaged image ({error})", "an image that Pillow can read") from None
