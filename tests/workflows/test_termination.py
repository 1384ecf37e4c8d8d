"""SIGTERM ends a command like Ctrl-C, with another exit code."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

# A command that waits inside of Ray, where signals are Ray's to notice.
_WAITING = """
import os, signal, sys
import click
from nwc_infra.cluster import cluster
from nwc_workflows import cli

@click.command()
def waiting():
    with cluster(workers=1):
        import ray
        forever = ray.remote(lambda: __import__("time").sleep(60)).remote()
        try:
            print(ray.nodes()[0]["RayletSocketName"], flush=True)
            ray.get(forever)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # the second signal breaks into nothing
            print("in order", flush=True)

cli.nwc.get_command = lambda context, name: waiting
cli.main(["waiting"])
"""


def test_a_terminated_command_stops_its_ray_and_says_so():
    driver = subprocess.Popen(
        [sys.executable, "-c", _WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    raylet = driver.stdout.readline().strip()
    assert raylet.endswith("raylet"), driver.communicate()
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, out, err.split()) == (143, "in order\n", ["nwc:", "terminated"])
    with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as client:  # nobody listens there any more
        client.connect(raylet)


_AT_ONCE = """
import os, signal
from nwc_workflows import cli

def main(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()

cli.nwc.main = main
try:
    cli.main([])
except SystemExit as end:
    print(end.code, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


def test_the_handler_is_the_commands_own():
    done = subprocess.run([sys.executable, "-c", _AT_ONCE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "143 True\n", "nwc: terminated\n")


def test_a_command_in_another_thread_leaves_signals_alone():
    code = (
        "import threading; from nwc_workflows.termination import interrupted_by_sigterm as block\n"
        "def work():\n  with block() as received: print(received)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
