"""The state of a training run on disk: saved whole or not at all, and taken up only by the run that it belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from nwc_core.errors import FormatError, UsageError

_WANTED = "the state of a training run; remove it to start over"


def save_state(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write a state; `identity` says what determines the run (configuration and sources)."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"identity": identity, **state}, partial)
    os.replace(partial, path)  # noqa: PTH105  a crash leaves the old state or the new one


def load_state(path: Path, identity: str) -> dict[str, Any]:
    """The state that was saved.

    Raises:
        UsageError: it belongs to another run.
        FormatError: the file holds none.
    """
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)  # runs no code that a file may hold
        found = saved["identity"]
    except Exception as error:  # torch raises half a dozen kinds, some with advice to run the file's code
        raise FormatError(str(path), f"a file that cannot be read ({type(error).__name__})", _WANTED) from None
    if found != identity:
        raise UsageError(
            f"{path}: belongs to another training run (other sources or configuration); remove it to start over"
        )
    return saved


def damaged(path: Path, error: Exception) -> FormatError:
    """The error to raise for a state that this run cannot take up although it is its own."""
    return FormatError(str(path), f"a damaged state ({type(error).__name__})", _WANTED)
