"""The command line: `nwc COMMAND ...`.

Promises: `nwc --help` imports no command and answers in a fraction of a second; errors that nwc raises on purpose are
one line and no traceback (NWC_DEBUG=1 shows it); exit codes are 0 done, 1 failed, 2 wrong usage, 3 finished with some
tensors or models failed, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import NamedTuple

import click

from nwc_core.errors import NwcError, UsageError
from nwc_workflows.console import ExitCode, json_text
from nwc_workflows.log import check_form, say
from nwc_workflows.termination import EXIT_CODE as TERMINATED
from nwc_workflows.termination import interrupted_by_sigterm


class Row(NamedTuple):
    """A command: where it is ("module:name of the click command") and its line in `nwc --help`."""

    target: str
    summary: str


# The only place that a new command is added to.
COMMANDS = {
    "plan": Row("nwc_workflows.commands.plan:plan", "Say what compressing would do, without doing it."),
    "compress": Row("nwc_workflows.commands.compress:compress", "Compress a checkpoint into an artifact."),
    "verify": Row("nwc_workflows.commands.verify:verify", "Check every byte of an artifact."),
    "inspect": Row("nwc_workflows.commands.inspect:inspect", "Show what an artifact holds, or how two differ."),
    "report": Row(
        "nwc_workflows.commands.report:report", "Show an artifact, a catalog or a benchmark as one HTML file."
    ),
    "cat": Row("nwc_workflows.commands.cat:cat", "Decode one tensor into a file."),
    "decompress": Row("nwc_workflows.commands.decompress:decompress", "Turn an artifact back into a checkpoint."),
    "export": Row("nwc_workflows.commands.export:export", "Write a plain checkpoint that everything loads."),
    "catalog": Row("nwc_workflows.commands.catalog:catalog", "Compress many models by one file."),
    "calibrate": Row("nwc_workflows.commands.calibrate:calibrate", "Measure what an error in each weight does."),
    "evaluate": Row("nwc_workflows.commands.evaluate:evaluate", "Compare compressed models with the original on data."),
    "train": Row("nwc_workflows.commands.train:train", "Train a codec on checkpoints."),
    "submit": Row("nwc_workflows.commands.submit:submit", "Run a catalog on a cluster."),
    "jobs": Row("nwc_workflows.commands.jobs:jobs", "List, follow and stop the jobs on a cluster."),
    "bench": Row("nwc_workflows.commands.bench:bench", "Measure speed and rate on this machine."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called; listing them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.summary) for name, row in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="nwc", prog_name="nwc")
def nwc() -> None:
    """Neural weight compression: make checkpoints several times smaller with codecs learned from weights."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; always ends in SystemExit with the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with interrupted_by_sigterm() as received:
        code = _run(arguments, received)
    sys.exit(code)


def _run(arguments: list[str], received: Sequence[int]) -> int:
    """The exit code. `received` holds a number as soon as SIGTERM has interrupted."""
    try:
        check_form()
        code = nwc.main(arguments, prog_name="nwc", standalone_mode=False)
    except NwcError as error:
        usage = isinstance(error, UsageError)
        return _report(error, " ".join(str(error).split()), ExitCode.USAGE if usage else ExitCode.FAILED, arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            print(error.ctx.get_usage(), file=sys.stderr)
        return _report(error, error.format_message(), ExitCode(error.exit_code), arguments)
    except (click.Abort, KeyboardInterrupt):
        say(f"nwc: {'terminated' if received else 'interrupted'}", "end", "error")
        return TERMINATED if received else 128 + 2  # what a shell reports for a process ended by SIGTERM or SIGINT
    return code if isinstance(code, int) else ExitCode.DONE


def _report(error: Exception, message: str, code: ExitCode, arguments: list[str]) -> int:
    if os.environ.get("NWC_DEBUG") == "1":
        traceback.print_exception(error)
    fields = vars(error) if isinstance(error, NwcError) else {}  # where, found, wanted, key ...
    say(f"nwc: error: {message}", "error", "error", {"type": type(error).__name__, **fields})
    if _wants_json(arguments):
        print(json_text({"error": {"type": type(error).__name__, "message": message, **fields}}))
    return code


def _wants_json(arguments: list[str]) -> bool:
    """Read off the arguments themselves: a wrong option elsewhere ends click's parsing before it gets to this one."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--output=json" in options or ("--output", "json") in pairwise(options)


if __name__ == "__main__":  # how `nwc submit` starts it on a cluster
    main()
