"""Where on the Hugging Face Hub: hf://organisation/model[@revision][/folder], as huggingface_hub spells it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from nwc_core.errors import UsageError
from nwc_infra.stores.keys import key_fault

SCHEME = "hf://"
MAIN = "main"  # the branch that every repository has
_WANTED = "wanted hf://organisation/model, hf://organisation/model@revision, or a folder of either"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_KINDS = ("datasets", "spaces", "kernels", "buckets")  # what else the scheme may name
# Revisions with a slash that need no %2F: the Hub's own branches.
_REFS = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True)
class HubLocation:
    """A folder of a model repository.

    Attributes:
        repo: "organisation/model", or "model" for the oldest models.
        revision: branch, tag or commit.
        folder: within the repository, "" for all of it.
        uri: all of these, without a slash at the end.
    """

    repo: str
    revision: str
    folder: str
    uri: str


def parse_location(uri: str) -> HubLocation:
    """Read a URI; slashes of a revision are written as %2F, except in refs/pr/N and refs/convert/NAME.

    Raises:
        UsageError: it is not of that form, or names something else than a model.
    """
    text = uri.removeprefix(SCHEME).rstrip("/")
    if not uri.startswith(SCHEME) or not text:
        raise UsageError(f"{uri!r}: not a model on the Hugging Face Hub; {_WANTED}")
    first, _, rest = text.partition("/")
    if first in _KINDS:
        raise UsageError(f"{uri!r}: found one of the Hub's {first}; only models are read; {_WANTED}")
    if "@" in first or not rest:  # "gpt2": the oldest models have no organisation
        name, at, behind = text.partition("@")
    else:
        second, _, rest = rest.partition("/")
        name, at, revision = f"{first}/{second}".partition("@")
        behind = f"{revision}/{rest}" if rest else revision
    if at:
        found = _REFS.fullmatch(behind)
        revision, folder = (found[1], found[2] or "") if found else _split(behind)
    else:
        revision, folder = MAIN, behind.lstrip("/")
    if not all(_NAME.fullmatch(part) and ".." not in part for part in name.split("/")):
        raise UsageError(f"{uri!r}: {name!r} is no name of a model; {_WANTED}")
    if not revision or not revision.isprintable() or key_fault(revision):
        raise UsageError(f"{uri!r}: {revision!r} is no revision; {_WANTED}")
    if folder and (fault := key_fault(folder)):
        raise UsageError(f"{uri!r}: the folder is {fault}; {_WANTED}")
    return HubLocation(name, revision, folder, f"{SCHEME}{text}")


def _split(behind: str) -> tuple[str, str]:
    revision, _, folder = behind.partition("/")
    return unquote(revision), folder
