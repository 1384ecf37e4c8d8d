"""A real Ray head with its dashboard and token authentication, in a folder and on ports of its own.

Promises: everything that it starts ends with `stop`, found by the processes that were started, never by name.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.util import get_node_ip_address

START_SECONDS = 90


class RayHead:
    """A head that takes jobs, with two CPUs; or with none, and Ray's autoscaler, which starts nodes of one CPU each.

    Args:
        folder: empty; short, since it holds sockets, whose paths may have 107 bytes.
        grows_to: how many nodes the autoscaler may start; 0 for no autoscaler.

    Attributes:
        address: of its dashboard.
        token: that it asks for.
    """

    def __init__(self, folder: Path, grows_to: int = 0) -> None:
        self.folder = folder
        self.token = secrets.token_hex(32)
        gcs, dashboard, client, agent = _free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        ports = {"port": gcs, "dashboard-port": dashboard, "ray-client-server-port": client}
        ports["dashboard-agent-listen-port"] = agent
        self._command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *("--include-dashboard=true", f"--object-store-memory={100 << 20}"),
            *(["--num-cpus=0", f"--autoscaling-config={folder}/autoscaler.json"] if grows_to else ["--num-cpus=2"]),
            *(f"--temp-dir={folder}", *(f"--{name}={port}" for name, port in ports.items())),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        if grows_to:
            config = _autoscaler(f"{get_node_ip_address()}:{gcs}", grows_to)
            (folder / "autoscaler.json").write_text(json.dumps(config))

    def start(self) -> None:
        """Returns when jobs are taken. Workers and jobs have this process's environment of now."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # `python` is the one that Ray runs in
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_FAKE_CLUSTER": "1",  # the autoscaler's nodes are processes of this machine
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError("Ray's head did not start:\n" + (self.folder / "log").read_text()[-2000:])
            time.sleep(0.5)

    def stop(self) -> None:
        """`ray start --block` stops what it started when it is told to end."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in self._left_over():  # the autoscaler's nodes, which are nobody's children
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left_over(self) -> Iterator[int]:
        """Processes that have our folder, which is nobody else's, in their arguments."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{self.folder}/".encode() in (process / "cmdline").read_bytes():
                    yield int(process.name)

    def _answers(self) -> bool:
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _autoscaler(gcs_address: str, workers: int) -> dict[str, Any]:
    """Of Ray's own provider for tests, which calls its head node's type ray.head.default."""
    nothing: dict[str, Any] = {key: {} for key in ("auth", "docker", "file_mounts")}
    commands = [f"{kind}_commands" for kind in ("setup", "initialization", "head_setup", "worker_setup")]
    commands += ["head_start_ray_commands", "worker_start_ray_commands"]
    return {
        "cluster_name": "test",
        "max_workers": workers,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            **{"type": "fake_multinode", "gcs_address": gcs_address},
            **{"disable_node_updaters": True, "disable_launch_config_check": True, "use_node_id_as_ip": True},
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": workers},
        },
        "head_node_type": "ray.head.default",
        **nothing,
        **{key: [] for key in (*commands, "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
