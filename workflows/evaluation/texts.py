"""Texts to evaluate on: a text file, JSON lines, or a folder of both, read in the order of their names.

A line of JSON lines is an object whose "text" is one document. As a stream (for language models) documents follow each
other, a line break between two of them; as items (for encoders) a text file gives one text per line, and JSON lines
one per document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nwc_core.errors import FormatError
from nwc_core.strict_json import parse_json, shown
from nwc_workflows.evaluation.data_files import TEXT_SUFFIXES, digest_of


@dataclass(frozen=True)
class Texts:
    """The files, not read yet, and their digest."""

    files: tuple[Path, ...]
    sha256: str

    def stream(self) -> str:
        """All documents in one."""
        return "\n".join(document for file in self.files for document in _documents(file))

    def items(self) -> list[str]:
        """Texts that are not empty, each once: a copy would be its own nearest neighbour."""
        seen: dict[str, None] = {}
        for file in self.files:
            for document in _documents(file):
                for text in [document] if file.suffix.lower() == ".jsonl" else document.splitlines():
                    if text.strip():
                        seen[text.strip()] = None
        return list(seen)


def open_texts(path: Path) -> Texts:
    """The texts at a path.

    Raises:
        StoreError: a file cannot be read.
    """
    chosen = [path]
    if path.is_dir():
        chosen = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in TEXT_SUFFIXES and entry.is_file())
    return Texts(tuple(chosen), digest_of(path, chosen))


def _documents(path: Path) -> Iterator[str]:
    data = path.read_bytes()
    if path.suffix.lower() != ".jsonl":
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(str(path), f"a byte that is not UTF-8 at {error.start}", "a text in UTF-8") from None
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        value = parse_json(line, f"{path}, line {number}")
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise FormatError(f"{path}, line {number}", shown(value), 'an object with a string "text"')
        yield text
