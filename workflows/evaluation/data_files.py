"""Which files the data of an evaluation is, and the digest by which a result says what it was measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nwc_core.errors import FormatError, NotFoundError, StoreError

TEXT_SUFFIXES = (".txt", ".jsonl")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def data_kind(path: Path) -> Literal["texts", "images"]:
    """What a file or folder holds, judged by names: *.npz and folders of pictures are images, all else is text.

    Raises:
        NotFoundError: nothing is there.
        FormatError: a folder with neither.
    """
    if not path.exists():
        raise NotFoundError(str(path), "no such file or folder")
    if path.is_file():
        return "images" if path.suffix.lower() == ".npz" else "texts"
    if any(entry.suffix.lower() in TEXT_SUFFIXES for entry in path.iterdir()):
        return "texts"
    if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in path.glob("*/*")):
        return "images"
    wanted = f"texts ({', '.join(TEXT_SUFFIXES)}), or a sub-folder of images ({', '.join(IMAGE_SUFFIXES)}) per class"
    raise FormatError(str(path), "a folder with neither texts nor images", wanted)


def digest_of(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 (hex) of one file's bytes if the data is that file; of the lines of `sha256sum` for files of a folder.

    Raises:
        StoreError: a file cannot be read.
    """
    if files == [root]:
        return _sha256(root)
    lines = "".join(f"{_sha256(file)}  {file.relative_to(root).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(str(path), str(error.strerror)) from None
