"""What huggingface_hub reports, as nwc's errors: the object, what happened in plain words, what to do.

Promises: no exception of huggingface_hub or of its HTTP client passes `plain_words`, and no token is in a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nwc_core.errors import NotFoundError, NwcError, PermissionDeniedError, StoreError
from nwc_core.strict_json import shown

_LOG_IN = (
    "log in (hf auth login) or set HF_TOKEN; each Ray worker looks for its own token: on a cluster, set HF_TOKEN when Ray "
    "starts"
)


@contextmanager
def plain_words(where: str, endpoint: str, repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a StoreError.

    Args:
        where: the object in full, hf://organisation/model/key.
        endpoint: URL of the Hub that was asked.
        repo: the model's name there.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except NwcError:
        raise
    except OfflineModeIsEnabled as error:
        raise StoreError(where, "offline: HF_HUB_OFFLINE is set; unset it, or name a local folder instead") from error
    except HfHubHTTPError as error:
        raise _from_answer(error, where, endpoint, repo) from error
    except (HTTPError, OSError, ValueError) as error:  # ValueError: an answer that is no JSON
        raise _from_client(error, where, endpoint) from error


def _from_answer(error: Any, where: str, endpoint: str, repo: str) -> StoreError:
    """From an error that the server sent. Its message is a stranger's text: shortened, made printable."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    said = f"({endpoint} said {status}: {shown(error.server_message or error.response.reason_phrase)})"
    if isinstance(error, GatedRepoError):
        return PermissionDeniedError(
            where, f"the model is gated: accept its conditions at {endpoint}/{repo}, then {_LOG_IN} {said}"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return NotFoundError(where, "no such object")
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(where, f"the model {repo} has no such revision {said}")
    if isinstance(error, DisabledRepoError):
        return PermissionDeniedError(where, f"access to the model is disabled {said}")
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        # Who is not logged in gets 401 for a model that does not exist and for a private one alike.
        if status == 401:
            return PermissionDeniedError(
                where,
                f"no such model at {endpoint}, or a private one, or a wrong token: check the name; {_LOG_IN} {said}",
            )
        return NotFoundError(
            where, f"no model {repo} at {endpoint}, or a private one that this token may not read: check both {said}"
        )
    if status == 403:
        return PermissionDeniedError(where, f"access denied: the token lacks a permission; {_LOG_IN} {said}")
    if status == 404:
        return NotFoundError(where, "no such object")
    if status == 429:
        return StoreError(
            where, f"too many requests; wait some minutes, log in for a higher limit, or use fewer workers {said}"
        )
    if status >= 500 or status == 408:
        return StoreError(where, f"the server is overloaded or out of order, still after several attempts {said}")
    return StoreError(where, f"the server refused {said}")


def _from_client(error: Exception, where: str, endpoint: str) -> StoreError:
    """From an error on this side of the wire; told by name, since the HTTP client is huggingface_hub's own choice."""
    name = type(error).__name__
    if name == "ConnectError":
        return StoreError(where, f"nobody answers at {endpoint}; check the network, and HF_ENDPOINT if it is set")
    if "Timeout" in name:
        return StoreError(
            where, f"{endpoint} did not answer in time; check the network, or raise HF_HUB_DOWNLOAD_TIMEOUT (seconds)"
        )
    if name in ("RemoteProtocolError", "ReadError", "WriteError", "CloseError"):
        return StoreError(where, f"{endpoint} broke the connection off")
    if name == "JSONDecodeError":
        return StoreError(where, f"{endpoint} answered, but not as the Hub does; check HF_ENDPOINT")
    return StoreError(where, f"{endpoint}: {name}: {shown(str(error))}")
