"""An S3 server, and a proxy before it that counts and spoils requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import Proxy, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its URL."""
    with s3_server() as url:
        yield url


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()
