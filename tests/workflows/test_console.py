"""What goes to stdout and stderr, in which words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from nwc_workflows import progress as progress_module
from nwc_workflows.cli import main
from nwc_workflows.console import ExitCode, Output, with_output
from nwc_workflows.wording import amount_text, bytes_text, duration_text, rate_text, table_text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (90_868_376, "90.9 MB"),
        (999_499, "999 kB"),
        (999_501, "1.00 MB"),
        (1.5e12, "1.50 TB"),
        (2.5e16, "25,000 TB"),
        (-1500, "-1.50 kB"),
    ],
)
def test_bytes_text(nbytes: float, text: str) -> None:
    assert bytes_text(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.9, "1 h 00 min"),
        (7440, "2 h 04 min"),
    ],
)
def test_duration_text(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_amounts_and_rates_carry_their_unit() -> None:
    assert amount_text(12_345, "tensors") == "12,345 tensors"
    assert rate_text(3e6, 2, "B") == "1.50 MB/s"
    assert rate_text(30, 4, "tensors") == "7.50 tensors/s"
    assert rate_text(0, 0, "B") == "0 B/s"


def test_table_aligns_numbers_right_and_cuts_nothing() -> None:
    name = "encoder.layer.0." + "x" * 200
    lines = table_text(["tensor", "bits"], [[name, 4.25], ["pooler", 16]]).splitlines()
    assert lines[0].split() == ["tensor", "bits"]
    assert lines[2] == f"{name}  4.25"
    assert lines[3] == f"{'pooler':216}    16"
    assert table_text(["a", "b"], []).splitlines()[0] == "a  b"


def test_result_is_text_or_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"decibels": float("-inf"), "path": Path("a/b"), "rows": ({"bits": np.float32(0.5), "bad": np.nan},)}
    Output("text").result(data, lambda: "half a bit")
    assert capsys.readouterr().out == "half a bit\n"
    Output("json").result(data, "not shown")
    assert json.loads(capsys.readouterr().out) == {
        "decibels": None,
        "path": "a/b",
        "rows": [{"bits": 0.5, "bad": None}],
    }


def test_json_keeps_stdout_for_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("json")
    output.table(["a"], [[1]])
    output.note("skipped pytorch_model.bin")
    with output.progress(10, "compress") as progress:
        progress.advance(10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == "skipped pytorch_model.bin"
    assert captured.err.splitlines()[1].startswith("compress: done, 10 B in ")


class _Clock:
    """Time that passes only when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_log_lines_come_rarely_and_the_last_always(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = _Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    with Output().progress(1000, "train", unit="steps") as progress:
        for _ in range(100):  # 1 % and 1 s each: a line every 10 %, never more
            clock.now += 1
            progress.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 10%, 100 steps of 1,000 steps, 10.0 steps/s, 1 min 30 s left"
    assert len(lines) == 11
    assert lines[-1] == "train: done, 1,000 steps in 1 min 40 s, 10.0 steps/s"
    with Output().progress(1000, "train", unit="steps") as progress:
        for _ in range(100):  # 1 % and 1/8 s each: a line every 5 s
            clock.now += 0.125
            progress.advance(10)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "train: 40%",
        "train: 80%",
        "train: done",
    ]


def test_stopped_work_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Output().progress(4, "compress", unit="tensors") as progress:
        progress.advance(1)
        raise KeyboardInterrupt
    assert capsys.readouterr().err.startswith("compress: stopped at 25%, 1 tensors in ")


def test_no_work_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().progress(0, "compress"):
        pass
    assert capsys.readouterr().err.startswith("compress: done, 0 B in ")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with Output().progress(2000, "layer[0]") as progress:
        progress.advance(2000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "━" in captured.err
    assert "layer[0]" in captured.err
    assert "100 %, 2.00 kB in" in captured.err


def test_with_output_hands_the_command_its_output() -> None:
    @click.command()
    @click.argument("name")
    @with_output
    def greet(output: Output, name: str) -> int:
        """Says hello."""
        output.result({"hello": name}, f"hello {name}")
        return ExitCode.PARTIAL

    runner = CliRunner()
    assert runner.invoke(greet, ["you"]).output == "hello you\n"
    done = runner.invoke(greet, ["you", "--output", "json"], standalone_mode=False)
    assert json.loads(done.stdout) == {"hello": "you"}
    assert done.return_value == 3
    assert runner.invoke(greet, ["you", "--output", "xml"]).exit_code == 2
    assert "Says hello." in runner.invoke(greet, ["--help"]).output


def test_a_structured_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NWC_LOG", "json")
    monkeypatch.setattr(progress_module, "_LINE_SECONDS", 0.0)
    output = Output()
    output.note("one model failed", "model", {"name": "a", "outcome": "failed"})
    with output.progress(4, "compress", "tensors") as progress:
        progress.advance(1)
        progress.advance(3)
    note, first, second, last = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (note["event"], note["level"], note["message"]) == ("model", "info", "one model failed")
    assert (note["name"], note["outcome"]) == ("a", "failed")
    assert [line["done"] for line in (first, second, last)] == [1, 4, 4]
    assert [line["state"] for line in (first, second, last)] == ["running", "running", "done"]
    assert {line["total"] for line in (first, second, last)} == {4}
    assert all(line["time"].endswith("+00:00") for line in (note, first, last))


def test_errors_in_a_structured_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NWC_LOG", "json")
    with pytest.raises(SystemExit, match="1"):
        main(["inspect", "nowhere.nwc"])
    said = json.loads(capsys.readouterr().err)
    assert (said["level"], said["event"], said["type"]) == ("error", "error", "NotFoundError")
    assert "nowhere.nwc" in said["message"]
    monkeypatch.setenv("NWC_LOG", "xml")
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", "nowhere.nwc"])
    assert "NWC_LOG=xml; wanted text or json" in capsys.readouterr().err
