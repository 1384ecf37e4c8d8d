"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nwc_infra.cluster import RayCluster

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(scope="session")
def kit() -> Path:
    """The optional evaluation kit: a folder of trained models, texts and images. Tests that use it skip without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "kit"
    path = Path(os.environ.get("NWC_KIT", beside))
    if not path.is_dir():
        pytest.skip("no evaluation kit; NWC_KIT names its folder")
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """One local Ray with two workers for the whole session: starting and stopping one takes four seconds.

    Code under test that opens nwc_infra.cluster.cluster() without an address finds and uses it.
    """
    from nwc_infra.cluster import cluster

    with cluster(workers=2) as running:
        yield running
