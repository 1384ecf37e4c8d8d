"""A driver whose cluster loses the node that works, in a process of its own: python losing_nodes.py SOURCE DESTINATION.

The cluster is Ray's own for tests: a head without CPUs and two nodes of one CPU each, all processes of this machine. Prints
JSON: nodes lost, tasks that ran, on how many nodes, and whether the artifact was created.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
from ray.cluster_utils import Cluster

from nwc_core.codec import Codec
from nwc_core.store import open_store
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan


def main(source: str, destination: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]
    cluster.wait_for_nodes()
    lost: list[float] = []

    def lose() -> None:
        while not list(Path(destination).glob("part-*")):
            time.sleep(0.01)
        cluster.remove_node(nodes[0], allow_graceful=False)  # what it was at is gone
        lost.append(time.time())

    threading.Thread(target=lose, daemon=True).start()
    plan = make_plan(source, Codec.load("default"), CompressOptions(bits=5.0))
    done = compress(plan, open_store(destination), address=cluster.address, workers=2)
    after = [span for span in done.timeline if lost and span.started + span.seconds > lost[0]]
    print(json.dumps({"lost": len(lost), "tasks": len(done.timeline), "after": len(after), "created": done.created}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
