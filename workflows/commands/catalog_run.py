"""`nwc catalog run`: compress every model of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.catalog_options import record_data
from nwc_workflows.commands.options import ray_options
from nwc_workflows.console import ExitCode, Output, with_output
from nwc_workflows.wording import bytes_text, count_text, duration_text, name_text

if TYPE_CHECKING:
    from nwc_workflows.catalog.model import Result
    from nwc_workflows.catalog.records import Status


@click.command()
@click.argument("catalog", metavar="CATALOG.yaml")
@ray_options
@with_output
def run(output: Output, catalog: str, address: str | None, workers: int | None) -> int:
    """Compress every model of CATALOG.yaml that is not compressed yet.

    What an earlier run began is finished; what it finished is left as it is. A model that fails is reported and the others
    go on: exit code 3 if some failed, 1 if all did.
    """
    from nwc_core.codec import Codec
    from nwc_workflows.catalog.families import with_bases
    from nwc_workflows.catalog.file import read_catalog
    from nwc_workflows.catalog.members import find_members
    from nwc_workflows.catalog.run import run_catalog

    read = read_catalog(catalog)
    codec = Codec.load(read.codec)
    members = with_bases(find_members(read, catalog), catalog)
    output.note(
        f"{count_text(len(members), 'model')}, {bytes_text(sum(member.nbytes for member in members))} of weights"
    )
    ended = run_catalog(
        members,
        read.root,
        codec,
        show=output.progress,
        limits=read.limits,
        address=address,
        workers=workers,
        on_end=lambda result: output.note(_result_text(result), "model", _result_data(result)),
    )
    done, already, failed = (ended.count(outcome) for outcome in ("done", "done already", "failed"))
    statuses = [result.status for result in ended.results if result.outcome != "failed"]
    before = sum(status.source_nbytes or 0 for status in statuses)
    after = sum(status.artifact_nbytes or 0 for status in statuses)
    order = {member.name: index for index, member in enumerate(members)}
    data = {
        "models": [_result_data(result) for result in sorted(ended.results, key=lambda r: order[r.member.name])],
        "done": done,
        "done_already": already,
        "failed": failed,
        "source_bytes": before,
        "artifact_bytes": after,
        "seconds": ended.seconds,
    }
    times = f", {before / after:.2f} times smaller" if after else ""
    output.result(
        data,
        f"{done} models compressed, {already} were already, {failed} failed; {bytes_text(before)} -> {bytes_text(after)}"
        f"{times}; {duration_text(ended.seconds)}",
    )
    if not failed:
        return ExitCode.DONE
    return ExitCode.PARTIAL if done or already else ExitCode.FAILED


def _result_text(result: Result) -> str:
    status, name = result.status, name_text(result.member.name)
    if result.outcome == "failed":
        return f"{name}: failed: {status.reason}"
    if result.outcome == "done already":
        return f"{name}: done already"
    resumed = f", {status.tasks_resumed} of {status.tasks} tasks resumed" if status.tasks_resumed else ""
    return f"{name}: {_sizes_text(status)}, {duration_text(status.seconds or 0)}{resumed}"


def _sizes_text(status: Status) -> str:
    before, after = status.source_nbytes or 0, status.artifact_nbytes or 0
    return (
        f"{bytes_text(before)} -> {bytes_text(after)}, {before / max(1, after):.2f} times smaller, "
        f"{status.bits_per_weight or 0:.3f} bits per weight"
    )


def _result_data(result: Result) -> dict[str, Any]:
    return {"name": result.member.name, "outcome": result.outcome, **record_data(result.status)}
