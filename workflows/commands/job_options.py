"""What the commands that talk to a cluster's head have in common: its address, its token, the end of a job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.console import ExitCode, Output

if TYPE_CHECKING:
    from nwc_infra.jobs import JobInfo, JobServer

_OWN = frozenset(ExitCode)  # exit codes that nwc gives: those of a job are passed on


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--address and --token-file; the command receives both."""
    address = click.option(
        "--address",
        required=True,
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The head's dashboard: http://HOST:8265. RAY_API_SERVER_ADDRESS if left out.",
    )
    token = click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        help="Holds the token of a cluster that asks for one. RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH if left out.",
    )
    return address(token(command))


def open_server(address: str, token_file: Path | None) -> JobServer:
    """The cluster's head, which has answered. Raises as JobServer."""
    from nwc_infra.job_token import find_token
    from nwc_infra.jobs import JobServer

    return JobServer(address, find_token(token_file))


def follow_job(output: Output, server: JobServer, job: str) -> int:
    """Says a job's log as it comes (beside JSON: on stderr), then its end; gives the exit code.

    Raises KeyboardInterrupt on Ctrl-C, after saying how to go on: the job does.
    """
    try:
        info = server.follow(job, lambda text: click.echo(text, nl=False, err=output.json))
    except KeyboardInterrupt:
        output.note(
            f"\nthe job goes on; `nwc jobs logs {job} --follow --address {server.address}` follows it again, "
            f"`nwc jobs stop {job} --address {server.address}` stops it"
        )
        raise
    return end_of(output, info)


def end_of(output: Output, info: JobInfo) -> int:
    """Says how a job that has ended did; gives its exit code, or 1 if it has none of nwc's."""
    if info.exit_code is not None and info.exit_code in _OWN:
        output.result(job_data(info), f"job {info.id}: {info.status.lower()}, exit code {info.exit_code}")
        return info.exit_code
    output.result(job_data(info), f"job {info.id}: {info.status.lower()}: {reason_text(info)}")
    return ExitCode.FAILED


def reason_text(info: JobInfo) -> str:
    """Ray's words on a job's status, without the end of its log, which Ray puts there too."""
    first = next(iter(info.message.strip().splitlines()), "no reason given")
    return first.partition(", last available logs")[0]


def job_data(info: JobInfo) -> dict[str, Any]:
    """A job, for JSON."""
    return {
        "id": info.id,
        "status": info.status,
        "exit_code": info.exit_code,
        "message": info.message,
        "entrypoint": info.entrypoint,
        "metadata": info.metadata,
        "started": info.started.isoformat() if info.started else None,
        "ended": info.ended.isoformat() if info.ended else None,
    }


def time_text(time: datetime | None) -> str:
    """UTC, to the second; "" if there is none."""
    return f"{time:%Y-%m-%d %H:%M:%S}Z" if time else ""
