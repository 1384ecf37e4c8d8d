"""The token of a cluster that asks for one, as Ray has it since 2.52: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, a file.

Promises: the token is never in a message, only where it came from. A variable counts without RAY_AUTH_MODE=token too: newer
versions of Ray take that as understood.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nwc_core.errors import UsageError

_DEFAULT = Path(".ray/auth_token")  # below the home folder, where Ray looks for one, and puts one


@dataclass(frozen=True)
class Token:
    """A token, and what named it."""

    value: str = field(repr=False)
    origin: str


def find_token(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Token | None:
    """The file's, else the environment's, else the one in ~/.ray, except with RAY_AUTH_MODE=disabled; None if there is none.

    Raises:
        UsageError: a file that is named has no token, or RAY_AUTH_MODE=token and there is none.
    """
    if file is not None:
        return _read(file, "--token-file")
    if environment.get("RAY_AUTH_TOKEN"):
        return _checked(environment["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN")
    if environment.get("RAY_AUTH_TOKEN_PATH"):
        return _read(Path(environment["RAY_AUTH_TOKEN_PATH"]).expanduser(), "RAY_AUTH_TOKEN_PATH")
    mode, default = environment.get("RAY_AUTH_MODE", "").lower(), Path.home() / _DEFAULT
    if mode == "token" or (not mode and default.exists()):
        return _read(default, "RAY_AUTH_MODE=token without RAY_AUTH_TOKEN" if mode else "Ray's default")
    return None


def _read(path: Path, origin: str) -> Token:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{origin}: found no token in {path} ({error}); wanted a file that holds one") from error
    return _checked(text, f"{origin}, {path}")


def _checked(text: str, origin: str) -> Token:
    value = text.strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"{origin}: found {len(value)} characters that are no token; wanted one line of text")
    return Token(value, origin)
