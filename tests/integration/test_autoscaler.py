"""Ray's real autoscaler, with nodes that are processes here: a job that waits for CPUs gets them, and none stays behind it."""

import shlex
import tempfile
from pathlib import Path

import pytest
from ray_head import RayHead

from nwc_infra.job_token import Token
from nwc_infra.jobs import JobServer
from nwc_workflows.submit import packed

CPUS = """
import sys, time, ray
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
wanted, end = int(sys.argv[1]), time.monotonic() + 60
while (there := int(ray.cluster_resources().get("CPU", 0))) != wanted and time.monotonic() < end:
    time.sleep(0.5)
print("CPUS", there)
sys.exit(wanted)
"""


@pytest.fixture
def server(session_proxy):
    with tempfile.TemporaryDirectory(prefix="nwc-ray-", ignore_cleanup_errors=True) as folder:
        head = RayHead(Path(folder), grows_to=3)
        head.start()
        try:
            yield JobServer(head.address, Token(head.token, "the test"))
        finally:
            head.stop()


def test_a_job_waits_for_its_nodes_and_leaves_none_behind(server):
    def said_by(command):
        said = []
        with packed(b"{}", None) as runtime_env:
            ended = server.follow(server.submit(command, runtime_env=runtime_env, metadata={}), said.append)
        return ended.exit_code, "".join(said)

    look = f"python -c {shlex.quote(CPUS)}"
    code, said = said_by(f"python -m nwc_infra.autoscaler 3 {look} 3")
    assert code == 3  # the command's own
    assert "3 CPUs are there after" in said
    assert "CPUS 3" in said
    code, said = said_by(f"{look} 0")
    assert code == 0
    assert "CPUS 0" in said
