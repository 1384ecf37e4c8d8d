"""`nwc submit`: run a catalog on a cluster and follow it to its end."""

from __future__ import annotations

from pathlib import Path

import click

from nwc_workflows.commands.job_options import follow_job, job_data, open_server, server_options
from nwc_workflows.console import ExitCode, Output, with_output


@click.command()
@click.argument("job_file", metavar="JOB.yaml", type=click.Path(path_type=Path))
@server_options
@click.option("--no-wait", is_flag=True, help="Return as soon as the cluster has the job.")
@click.option(
    "--cpus",
    type=click.IntRange(1),
    default=None,
    help="Let the cluster's autoscaler bring so many CPUs first; what is there when the job starts if left out.",
)
@click.option(
    "--wheel",
    default=None,
    metavar="PATH|none",
    help="A wheel of nwc for the job; none where the cluster's own nwc is to run. The nwc that runs here if left out.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="An environment variable for the job and its workers, from here if it has no value; repeatable. No secrets.",
)
@click.option("--allow-local", is_flag=True, help="All machines of the cluster have the local paths in the file.")
@with_output
def submit(
    output: Output,
    job_file: Path,
    address: str,
    token_file: Path | None,
    no_wait: bool,
    cpus: int | None,
    wheel: str | None,
    variables: tuple[str, ...],
    allow_local: bool,
) -> int:
    """Run the catalog JOB.yaml on a Ray cluster, as `nwc catalog run` does here, and follow its log.

    The exit code is the job's own. Ctrl-C ends the following, not the job.
    """
    from nwc_workflows.job_file import check_job_file
    from nwc_workflows.submit import chosen_variables
    from nwc_workflows.submit import submit as run

    check_job_file(job_file, allow_local=allow_local)
    chosen = chosen_variables(variables)
    server = open_server(address, token_file)
    job = run(server, job_file, wheel=wheel, variables=chosen, cpus=cpus)
    if no_wait:
        output.result(job_data(server.info(job)), job)
        return ExitCode.DONE
    output.note(f"job {job} at {server.address} (Ray {server.ray_version})")
    return follow_job(output, server, job)
