"""A real S3 server for tests: Ceph's monitor, storage daemon and object gateway, in memory, on loopback.

Promises: nothing outside of its folder is read or written (no /etc/ceph, no /var/lib/ceph); everything is stopped by
`stop`, and by the kernel if the test process is killed; every wait has an end.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")

# Without `ms mon client mode = crc` the gateway hangs for 300 s where authentication is off. Pools are created one
# after the other, each waiting for a round of the monitor: a short interval takes ten seconds off the start. With its
# cache, a gateway tells the others of every change, and waits half a minute for one that was killed.
_CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
mon cluster log file = {folder}/log/cluster.log
crash dir = {folder}/crash
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
mon allow pool size one = true
paxos propose interval = 0.05
paxos min wait = 0.01
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
rgw cache enabled = false
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


class CephError(RuntimeError):
    """The server did not start, or did not do what a test needs of it."""


@dataclass(frozen=True)
class User:
    """Credentials of one user of the gateway."""

    name: str
    access_key: str
    secret_key: str


def missing_programs() -> list[str]:
    """Programs that are not installed here."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class CephGateway:
    """One server with everything that it needs.

    Args:
        folder: empty; short, since it holds sockets, whose paths may have 107 bytes.

    Attributes:
        port: of the gateway, the same over all restarts.
        endpoint: its URL.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, mon_port = _free_ports(2)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._fsid, self._osd = _uuid(), _uuid()
        self._conf = folder / "ceph.conf"
        self._mon_address = f"[v2:127.0.0.1:{mon_port}]"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._gateway: subprocess.Popen[bytes] | None = None
        # The kernel kills a daemon when the thread that started it ends: all are started by one that lasts.
        self._starter = ThreadPoolExecutor(1)
        for name in ("run", "log", "crash", "mon", "osd", "rgw"):
            (folder / name).mkdir()
        (folder / "keyring").touch()
        self._conf.write_text(_CONF.format(folder=folder, fsid=self._fsid, mon_port=mon_port, port=self.port))

    def start(self) -> None:
        """Start everything; returns when the gateway answers. Raises CephError."""
        monmap = str(self.folder / "monmap")
        try:
            _call(["monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._mon_address, monmap])
            self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
            self._daemons.append(self._spawn("ceph-mon", "-i", "a"))
            self._call("ceph", "osd", "new", self._osd)
            self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", self._osd)
            self._daemons.append(self._spawn("ceph-osd", "-i", "0"))
            self._call("ceph", "osd", "set", "noscrub")
            self.create_user("first")  # waits for the storage, and makes the gateway's pools
            self.restart()
        except BaseException:
            self.stop()
            raise

    def create_user(self, name: str) -> User:
        """A new user with new keys."""
        user = User(name, secrets.token_hex(10).upper(), secrets.token_hex(20))
        keys = ["--access-key", user.access_key, "--secret-key", user.secret_key]
        self._call("radosgw-admin", "user", "create", "--uid", name, "--display-name", name, *keys, seconds=60)
        return user

    def kill(self) -> None:
        """End the gateway as `kill -9` does; the storage behind it lives on."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()
            self._gateway = None

    def restart(self, seconds: float = 60) -> None:
        """Start the gateway again on its port, and wait until it answers. Raises CephError."""
        self.kill()
        self._gateway = self._spawn("radosgw", "-n", "client.rgw")
        deadline = time.monotonic() + seconds
        while not self._answers():
            if self._gateway.poll() is not None or time.monotonic() > deadline:
                raise CephError(f"the gateway did not start; see {self.folder}/log\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill everything: what is in memory only needs no orderly end. May be called again."""
        self.kill()
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        self._starter.shutdown()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["setpriv", "--pdeathsig", "KILL", program, "-c", str(self._conf), *arguments, "-f"]
        with (self.folder / "log" / f"{program}.out").open("ab") as output:
            start = self._starter.submit(
                subprocess.Popen, command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
            return start.result()

    def _call(self, program: str, *arguments: str, seconds: float = 30) -> None:
        _call([program, "-c", str(self._conf), *arguments], seconds)

    def _log_tail(self) -> str:
        logs = sorted((self.folder / "log").glob("*radosgw*")) + sorted((self.folder / "log").glob("*rgw*"))
        return "\n".join(line for log in logs for line in log.read_text(errors="replace").splitlines()[-20:])


def _call(command: Sequence[str], seconds: float = 30) -> None:
    """Run a program to its end. Raises CephError."""
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise CephError(f"{' '.join(command)}: not done within {seconds:.0f} s") from None
    except subprocess.CalledProcessError as error:
        raise CephError(f"{' '.join(command)}: {error.stderr.decode(errors='replace').strip()[-2000:]}") from None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _uuid() -> str:
    return str(uuid.uuid4())
