"""`nwc jobs`: what `nwc submit` has started on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nwc_core.errors import NwcError
from nwc_workflows.commands.job_options import follow_job, job_data, open_server, reason_text, server_options, time_text
from nwc_workflows.console import ExitCode, Output, with_output
from nwc_workflows.wording import duration_text

if TYPE_CHECKING:
    from nwc_infra.jobs import JobInfo

# A job that is asked to end has three seconds before it is killed, and its workers as many.
_STOP_SECONDS = 60.0


@click.group()
def jobs() -> None:
    """List, look up, follow and stop the jobs of a Ray cluster."""


@jobs.command("list")
@server_options
@with_output
def list_jobs(output: Output, address: str, token_file: Path | None) -> None:
    """List the jobs that were submitted to the cluster, oldest first."""
    found = open_server(address, token_file).list()
    rows = [
        [
            info.id,
            info.status,
            "" if info.exit_code is None else info.exit_code,
            time_text(info.started),
            _duration(info),
        ]
        for info in found
    ]
    output.table(["job", "status", "exit code", "started", "took"], rows)
    output.result({"jobs": [job_data(info) for info in found]}, f"{len(found)} jobs")


@jobs.command()
@click.argument("job")
@server_options
@with_output
def status(output: Output, job: str, address: str, token_file: Path | None) -> None:
    """Say how JOB does: its status, exit code, times, and Ray's words."""
    info = open_server(address, token_file).info(job)
    facts = {
        "job": info.id,
        "status": info.status,
        "exit code": "" if info.exit_code is None else info.exit_code,
        "started": time_text(info.started),
        "ended": time_text(info.ended),
        "took": _duration(info),
        "command": info.entrypoint,
        **info.metadata,
        "message": reason_text(info),
    }
    width = max(map(len, facts))
    output.result(job_data(info), "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in facts.items()))


@jobs.command()
@click.argument("job")
@server_options
@click.option("--follow", is_flag=True, help="Go on until the job ends, with its exit code.")
@with_output
def logs(output: Output, job: str, address: str, token_file: Path | None, follow: bool) -> int:
    """Print what JOB has said so far."""
    server = open_server(address, token_file)
    info = server.info(job)
    if follow:
        return follow_job(output, server, job)
    text = server.logs(job)
    output.result({**job_data(info), "log": text}, text.removesuffix("\n"))
    return ExitCode.DONE


@jobs.command()
@click.argument("job")
@server_options
@with_output
def stop(output: Output, job: str, address: str, token_file: Path | None) -> None:
    """Stop JOB and wait until it has ended. What it has committed stays; submitted again, it goes on from there."""
    server = open_server(address, token_file)
    if not server.info(job).has_ended:
        server.stop(job)
    info = _until_ended(lambda: server.info(job))
    output.result(job_data(info), f"job {info.id}: {info.status.lower()}")


def _until_ended(look_up: Callable[[], JobInfo]) -> JobInfo:
    start = time.monotonic()
    while not (info := look_up()).has_ended:
        if time.monotonic() - start > _STOP_SECONDS:
            raise NwcError(
                f"job {info.id}: still {info.status.lower()} {duration_text(_STOP_SECONDS)} after it was stopped"
            )
        time.sleep(0.5)
    return info


def _duration(info: JobInfo) -> str:
    if info.started is None:
        return ""
    return duration_text(((info.ended or datetime.now(UTC)) - info.started).total_seconds())
