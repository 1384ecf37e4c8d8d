"""The frame that every command hangs in: laziness, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

import click
import pytest

from nwc_core.errors import FormatError, NwcError, UnknownTensorError, UsageError
from nwc_workflows import cli
from nwc_workflows.console import ExitCode, Output, with_output

HEAVY = {"torch", "ray", "numba", "numpy", "pyarrow", "transformers", "boto3", "rich", "pydantic", "safetensors"}

_HELP = """
import sys
from nwc_workflows.cli import main
try:
    main(sys.argv[1:])
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
    print("commands:", *sorted(name for name in sys.modules if ".commands." in name), file=sys.stderr)
"""


def _help(*arguments: str) -> tuple[str, set[str], set[str]]:
    """What `nwc ARGUMENTS` prints, the top-level packages that it loaded, and the command modules."""
    done = subprocess.run([sys.executable, "-c", _HELP, *arguments], capture_output=True, text=True, check=True)
    loaded, commands = done.stderr.splitlines()[-2:]
    return done.stdout, set(loaded.split()[1:]), set(commands.split()[1:])


def test_help_lists_every_command_and_loads_none() -> None:
    text, loaded, commands = _help("--help")
    for name, row in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert row.summary in text
    assert not loaded & HEAVY
    assert not commands
    assert "click" in loaded


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_loads_nothing_heavy(name: str) -> None:
    text, loaded, commands = _help(name, "--help")
    assert f"nwc {name}" in text
    assert not loaded & {"torch", "ray", "numba", "pyarrow", "transformers", "boto3"}
    modules = {other: row.target.partition(":")[0] for other, row in cli.COMMANDS.items()}
    assert {other for other, module in modules.items() if module in commands} == {name}


def _leaves(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    return [leaf for child in command.commands.values() for leaf in _leaves(child)]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_offers_json(name: str) -> None:
    command = cli.nwc.get_command(click.Context(cli.nwc), name)
    assert command is not None
    for leaf in _leaves(command):
        assert "--output" in {option for parameter in leaf.params for option in parameter.opts}


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `nwc probe ...`, whose body is the given function, and returns the exit code."""

    def run(body: Callable[[Output], int | None], arguments: Sequence[str] = ()) -> int:
        @click.command()
        @click.option("--bits", type=float)
        @with_output
        def probe(output: Output, bits: float | None) -> int | None:
            return body(output)

        monkeypatch.setattr(cli, "probe", probe, raising=False)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Row("nwc_workflows.cli:probe", "Probe."))
        with pytest.raises(SystemExit) as ended:
            cli.main(["probe", *arguments])
        return int(ended.value.code or 0)

    return run


def _raise(error: BaseException) -> Callable[[Output], None]:
    def body(output: Output) -> None:
        raise error

    return body


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (ExitCode.FAILED, 1), (ExitCode.PARTIAL, 3)])
def test_what_a_command_returns_is_the_exit_code(run: Run, returned: int | None, code: int) -> None:
    assert run(lambda output: returned) == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FormatError("a.safetensors", "2 bytes", "8"), 1, "nwc: error: a.safetensors: found 2 bytes; wanted 8"),
        (UnknownTensorError("w", "model.nwc"), 1, "nwc: error: model.nwc: no tensor named 'w'"),
        (NwcError("two\n  lines"), 1, "nwc: error: two lines"),
        (UsageError("--bits: found 99"), 2, "nwc: error: --bits: found 99"),
        (KeyboardInterrupt(), 130, "nwc: interrupted"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    run: Run, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert run(_raise(error)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == line


def test_debug_shows_the_traceback(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NWC_DEBUG", "1")
    assert run(_raise(NwcError("bad"))) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "nwc: error: bad"


@pytest.mark.parametrize("option", [["--output", "json"], ["--output=json"]])
def test_json_errors_carry_their_fields(run: Run, capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    assert run(_raise(FormatError("a.safetensors", "2 bytes", "8")), option) == 1
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "type": "FormatError",
            "message": "a.safetensors: found 2 bytes; wanted 8",
            "where": "a.safetensors",
            "found": "2 bytes",
            "wanted": "8",
        }
    }


def test_wrong_options_are_wrong_usage_in_json_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_raise(AssertionError), ["--bits", "many", "--output", "json"]) == 2
    captured = capsys.readouterr()
    assert "Usage: nwc probe" in captured.err
    assert "nwc: error: Invalid value for '--bits'" in captured.err
    assert json.loads(captured.out)["error"]["type"] == "BadParameter"


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def probe() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "probe", probe, raising=False)
    monkeypatch.setitem(cli.COMMANDS, "probe", cli.Row("nwc_workflows.cli:probe", "Probe."))
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--version"], 0, f"nwc, version {version('nwc')}", ""),
        (["nosuch"], 2, "", "No such command 'nosuch'"),
        ([], 2, "", "Commands:"),
        (["-h"], 0, "Commands:", ""),
    ],
)
def test_the_frame_itself(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, out: str, err: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert int(ended.value.code or 0) == code
    captured = capsys.readouterr()
    assert out in captured.out
    assert err in captured.err
