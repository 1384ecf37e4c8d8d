"""Every error that nwc raises on purpose.

One small tree. Each class also subclasses the builtin that a caller would naturally catch, and carries what a person
needs to act: the place (file, object, tensor or key), what was found and what was wanted.
"""

from __future__ import annotations


class NwcError(Exception):
    """Base of all errors raised by nwc. The command line prints its text and no traceback."""


class FormatError(NwcError, ValueError):
    """Bytes do not follow the format that they claim.

    Attributes:
        where: the file, object, tensor or field that is wrong.
        found: what was found there.
        wanted: what the format asks for.
    """

    def __init__(self, where: str, found: str, wanted: str) -> None:
        super().__init__(f"{where}: found {found}; wanted {wanted}")
        self.where, self.found, self.wanted = where, found, wanted

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Exceptions cross process borders (Ray); the default would rebuild them from the joined message alone.
        return type(self), (self.where, self.found, self.wanted)


class IntegrityError(FormatError):
    """The bytes are not the ones that were written: a digest or a size does not match."""


class VersionError(FormatError):
    """Written by a newer nwc than this one."""


class UnsupportedSourceError(FormatError):
    """A checkpoint that nwc refuses to read, such as a pickle; `wanted` names the way out."""


class UnknownCodecError(NwcError, LookupError):
    """No codec of that name or digest."""

    def __init__(self, name: str, available: list[str]) -> None:
        super().__init__(
            f"unknown codec {name!r}; available: {', '.join(available) or 'none'}, or a path to a codec file"
        )
        self.name, self.available = name, available

    def __reduce__(self) -> tuple[type, tuple[str, list[str]]]:
        return type(self), (self.name, self.available)


class UnknownTensorError(NwcError, KeyError):
    """The artifact or checkpoint has no tensor of that name."""

    def __init__(self, name: str, where: str) -> None:
        super().__init__(f"{where}: no tensor named {name!r}")
        self.name, self.where = name, where

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.where)


class StoreError(NwcError, OSError):
    """An object store refused or failed. `key` is the object, in full (URI of the store and key)."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason

    def __str__(self) -> str:  # OSError would format its own arguments
        return f"{self.key}: {self.reason}"

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.key, self.reason)


class NotFoundError(StoreError, FileNotFoundError):
    """There is no such object."""


class AlreadyExistsError(StoreError, FileExistsError):
    """Create-if-absent found something there; nothing was changed."""


class PermissionDeniedError(StoreError, PermissionError):
    """The store knows us and says no."""


class UsageError(NwcError, ValueError):
    """The request itself makes no sense: an option, a job file, a combination of both."""


class WorkerLostError(NwcError, RuntimeError):
    """A job's worker process died, again and again: the job itself seems to kill it. `key` is the job."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.key, self.reason)


class ClusterLostError(NwcError, ConnectionError):
    """The Ray cluster is gone: nothing that was to run on it will."""
