"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from nwc_infra.cluster import RayCluster

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# The same examples every time: who installs this must not be failed by an example that nobody saw before. Looking for
# new ones is what HYPOTHESIS_PROFILE=explore is for.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# No test may touch a real account: invented keys instead of the developer's, also in Ray's workers, which get the
# environment of the moment when the cluster starts.
for variable in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[variable]
os.environ |= {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, as in Ray's workers and `nwc train`: sums depend on it, and tiny models are slower on several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
