"""What the documentation says of commands, options, messages, files and figures is so."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache

import click
import pytest
import yaml
from pages import CONTENTS, DOCS, FRONT, ORDER, PAGES, ROOT, Page, all_commands, options_of

from docs.pictures import draw
from nwc_core import errors
from nwc_infra.stores.s3_options import SECRETS, S3Options
from nwc_workflows.cli import COMMANDS, nwc
from nwc_workflows.console import ExitCode
from nwc_workflows.termination import EXIT_CODE as TERMINATED

PACKAGES = ("nwc_core", "infra", "workflows")
ALL = all_commands()
BY_NAME = {page.path.name: page for page in DOCS}
of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def command_of(words: list[str]) -> tuple[tuple[str, ...], click.Command]:
    """The command that a line calls, however little of the line is there."""
    path: tuple[str, ...] = ()
    for word in words:
        if (*path, word) not in ALL:
            break
        path = (*path, word)
    return path, ALL[path]


# ---- commands and options ------------------------------------------------------------------------------------------


@of_each_page
def test_every_line_in_a_block_is_one_that_nwc_takes(page: Page) -> None:
    for line in page.commands("", "sh"):
        path, command = command_of(line)
        assert not isinstance(command, click.Group) or line[len(path) :] == ["--version"], line
        if not isinstance(command, click.Group):
            with click.Context(nwc) as context:
                command.make_context(" ".join(path), line[len(path) :], parent=context)


@of_each_page
def test_every_option_exists(page: Page) -> None:
    anywhere = {option for command in ALL.values() for option in options_of(command)}
    for span in page.spans:
        words = span.split()
        named = [word.partition("=")[0] for word in words if word.startswith("--")]
        if words[0] == "nwc":
            _, command = command_of(words[1:])
            assert set(named) <= options_of(command) | {"--version"}, span
        elif words[0].startswith("--"):
            assert set(named) <= anywhere, span
    assert not re.findall(r"(?<![\w-])--[a-z]+", re.sub(r"`[^`]+`", "", page.prose)), (
        "an option that is not marked as code"
    )


def test_every_command_is_mentioned_and_none_that_is_not_there() -> None:
    mentioned = set()
    for page in PAGES:
        calls = [line for line in page.commands("", "sh") if not line[0].startswith("-")]
        calls += [span.split()[1:] for span in page.spans if re.match(r"nwc [a-z]", span)]
        for line in calls:
            assert line[0] in COMMANDS, f"{page.name}: nwc {' '.join(line)}"
            path, command = command_of(line)
            rest = line[len(path) :]
            # `nwc jobs` alone is the group.
            assert not isinstance(command, click.Group) or not rest, f"{page.name}: nwc {' '.join(line)}"
            mentioned |= {path[:depth] for depth in range(1, len(path) + 1)}
    assert {path for path in ALL if path} <= mentioned


def test_the_front_page_mentions_every_step_of_a_first_compression() -> None:
    assert {line[0] for line in FRONT.commands("")} >= {"plan", "compress", "verify", "inspect", "decompress"}


# ---- links ---------------------------------------------------------------------------------------------------------


@of_each_page
def test_links_lead_somewhere(page: Page) -> None:
    assert len(set(page.anchors)) == len(page.anchors)
    for link in page.links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in Page(target).anchors, link


def test_every_page_is_in_the_contents_and_leads_to_its_neighbours() -> None:
    assert sorted(file for _, file in ORDER) == sorted(
        path.name for path in CONTENTS.parent.glob("*.md") if path != CONTENTS
    )
    for index, page in enumerate(DOCS):
        before, after = ORDER[index - 1 : index], ORDER[index + 1 : index + 2]
        wanted = [f"Before: [{title}]({file})" for title, file in before] if index else []
        wanted += ["[All pages](README.md)", *(f"Next: [{title}]({file})" for title, file in after)]
        assert page.text.endswith("\n---\n\n" + " · ".join(wanted) + "\n"), page.name


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for code in [*page.spans, *"".join(page.blocks("")).splitlines()]:
            for target in re.findall(r"^make ([a-z-]+)", code):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# ---- messages ------------------------------------------------------------------------------------------------------


@cache
def said() -> list[str]:
    """Every string of the packages that is no docstring; … for what is put in."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (bare | inner):
                    found.append(node.value)
    return found


def messages() -> list[str]:
    """What the tables of troubleshooting quote, first cell of each row."""
    rows = re.findall(r"^\| (`[^|]*`) \|", BY_NAME["troubleshooting.md"].text, re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def test_messages_are_there_to_be_looked_up() -> None:
    assert len(messages()) > 50


@pytest.mark.parametrize("message", messages())
def test_every_message_is_in_the_source(message: str) -> None:
    assert len(max(message.split("…"), key=len).strip()) >= 7, "too little to be looked up"
    assert any(message in text for text in said())


def test_exit_codes_are_those_of_the_command_line() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", BY_NAME["troubleshooting.md"].text, re.MULTILINE)
    codes = {int(code) for row in rows for code in row.split(",")}
    assert codes == {*map(int, ExitCode), 128 + 2, TERMINATED}


def test_error_classes_are_as_the_table_says() -> None:
    below = BY_NAME["reading.md"].text.partition("| class |")[2].partition("\n\n")[0]
    for row in below.splitlines()[2:]:
        names, parents = (re.findall(r"`(\w+)`", cell) for cell in row.split("|")[1:3])
        for name in names:
            bases = {base.__name__ for base in getattr(errors, name).__mro__}
            assert "NwcError" in bases
            assert parents[0] in bases, name


# ---- names ---------------------------------------------------------------------------------------------------------


@of_each_page
def test_extras_and_variables_exist(page: Page) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for group in re.findall(r"'\.\[([a-z,-]+)\]'", page.text):
        assert set(group.split(",")) <= set(extras), group
    settings = {name.upper() for name in S3Options.model_fields} | set(SECRETS)
    source = "\n".join(path.read_text() for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))
    for variable in re.findall(r"\bNWC_[A-Z0-9_]*[A-Z0-9]\b", page.text):
        of_s3 = re.fullmatch(r"NWC_(?:S3|SOURCE|DESTINATION)_(\w+)", variable)
        assert of_s3[1] in settings if of_s3 else f'"{variable}' in source, variable


def test_settings_of_s3_are_all_there() -> None:
    below = BY_NAME["s3.md"].text.partition("| variable, after the prefix |")[2].partition("\n\n")[0]
    named = {name for row in below.splitlines()[2:] for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}
    wanted = {name.upper() for name in S3Options.model_fields if name != "key_variables"} | set(SECRETS)
    assert named == wanted


def test_files_on_the_map_exist() -> None:
    text = BY_NAME["architecture.md"].prose
    for name in re.findall(r"`([\w./*-]+(?:\.py|\.md|/))`", text):
        assert any(ROOT.glob(f"**/{name}")), name


def test_every_package_is_on_the_map() -> None:
    text = BY_NAME["architecture.md"].text
    for package in PACKAGES:
        for init in (ROOT / package).glob("*/__init__.py"):
            assert f"{init.parent.name}/`" in text or init.parent.name == "codecs", init.parent


def test_examples_in_yaml_are_yaml() -> None:
    for page in PAGES:
        for block in page.blocks("yaml"):
            assert isinstance(yaml.safe_load(block), dict)


# ---- figures -------------------------------------------------------------------------------------------------------


def test_figures_of_the_front_page_are_measured_ones() -> None:
    rows = [
        row for row in FRONT.text.partition("\n## Results\n")[2].partition("\n## ")[0].splitlines() if row[:1] == "|"
    ]
    assert len(rows) > 5
    measured = set(re.findall(r"\d+(?:\.\d+)?", BY_NAME["benchmarks.md"].text))
    for row in rows:
        assert set(re.findall(r"(?<![\w-])\d+(?:\.\d+)?", row)) <= measured, row


@pytest.mark.parametrize("name", draw.PICTURES)
def test_pictures_are_up_to_date(name: str) -> None:
    drawn = draw.PICTURES[name]()
    assert drawn == (draw.FOLDER / name).read_text(encoding="utf-8"), "python -m docs.pictures.draw"
    assert f"](pictures/{name})" in BY_NAME["how-it-works.md"].text
    for colour in ("prefers-color-scheme: dark", 'role="img"', "<title", "<desc"):
        assert colour in drawn
    assert "href" not in drawn
