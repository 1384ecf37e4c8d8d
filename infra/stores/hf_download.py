"""Reading a byte range of a file on the Hub: exactly the bytes asked for; a broken answer is taken up where it broke.

Large files are elsewhere: the Hub answers with a redirect to a signed address, which the HTTP client follows without the
token. Promises: memory bounded by bytes that really came, whatever a server claims.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nwc_core.errors import StoreError

# huggingface_hub's own backoff; seconds. A rate limit is waited out as long as the server says.
RETRIES: dict[str, Any] = {"max_retries": 5, "base_wait_time": 1.0, "max_wait_time": 8.0}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_SIZE = re.compile(r"bytes \*/(\d+)")


def read_range(url: str, headers: Mapping[str, str], start: int, stop: int, where: str) -> bytes:
    """Bytes [start, stop) of a file, at least one.

    Args:
        url: the file's resolve URL at a commit, so that all attempts read the same file.
        headers: of huggingface_hub, with the token.
        where: the object in full, for errors.

    Raises:
        StoreError: the file ends before `stop`, the server ignores ranges, or the connection broke too often.
        HfHubHTTPError, HTTPError, OfflineModeIsEnabled: of huggingface_hub, see `hf_errors.plain_words`.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

    data = bytearray()
    attempts = 0
    while True:
        attempts += 1
        broken: Exception | None = None
        at = start + len(data)
        # Compressed on the way, a range would be one of other bytes.
        asked = {**headers, "Range": f"bytes={at}-{stop - 1}", "Accept-Encoding": "identity"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with http_stream_backoff("GET", url, headers=asked, timeout=timeout, **RETRIES) as response:
            if response.status_code == 416:
                raise StoreError(where, f"wanted bytes [{start}, {stop}), found {_size(response)}")
            hf_raise_for_status(response)
            _check_answer(response, at, start, stop, where)
            # Not outside of the block: the backoff takes an error that passes it for a reason to ask again.
            try:
                for piece in response.iter_raw():
                    data += piece[: stop - start - len(data)]
                    if len(data) == stop - start:
                        return bytes(data)
            except HTTPError as error:
                broken = error
        if attempts > RETRIES["max_retries"]:
            missing = stop - start - len(data)
            raise StoreError(
                where, f"the server broke off with {missing} bytes missing, still after {attempts} attempts"
            ) from broken


def _size(response: Any) -> str:
    found = _SIZE.fullmatch(response.headers.get("Content-Range", ""))
    return f"{found[1]} bytes" if found else "fewer"


def _check_answer(response: Any, at: int, start: int, stop: int, where: str) -> None:
    """Whether the body will be the bytes [at, stop)."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise StoreError(where, "the server compresses byte ranges, which makes other bytes of them")
    if response.status_code == 200 and at == 0 and response.headers.get("Content-Length") == str(stop):
        return  # all of the file, and so much was asked for
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or found is None:
        raise StoreError(where, f"the server ignored the byte range [{at}, {stop})")
    first, last, total = map(int, found.groups())
    if first == at and last + 1 == total < stop:
        raise StoreError(where, f"wanted bytes [{start}, {stop}), found {total} bytes")
    if (first, last + 1) != (at, stop):
        raise StoreError(where, f"the server sent bytes [{first}, {last + 1}); wanted [{at}, {stop})")
