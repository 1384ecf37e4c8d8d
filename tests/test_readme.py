"""The examples of the front page and of every page below docs/, run as they stand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import DOCS, FRONT, Page
from small_model import make_language_model, make_text

from nwc_workflows.cli import main
from nwc_workflows.demo import model_folder

if TYPE_CHECKING:
    from nwc_infra.cluster import RayCluster

# What these pages do takes a language model and texts; all others go on with the front page's model and its artifact.
_OF_A_LANGUAGE_MODEL = ("choosing-bits.md", "catalogs.md", "ray.md")


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line of a block."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 0, f"nwc {' '.join(arguments)}\n{said.out}{said.err}"


def run_python(page: Page) -> dict[str, object]:
    """All blocks of a page, one after the other, as at one prompt. Gives what they named."""
    names: dict[str, object] = {}
    for block in page.blocks("python"):
        exec(compile(block, page.name, "exec"), names)
    return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real model at path/to/model, as the pages assume."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(model_folder(), path / "path/to/model")
    return path


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model at path/to/model, and texts."""
    path = tmp_path_factory.mktemp("language")
    make_language_model(path / "path/to/model")
    (path / "texts.txt").write_text(make_text(2600, seed=1))
    (path / "held-out.txt").write_text(make_text(1300, seed=2))
    return path


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the real model, and in it."""
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def beside(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Page:
    """A page, in a folder of its own that has what the pages before it left there."""
    page: Page = request.param
    if page.path.name in _OF_A_LANGUAGE_MODEL:
        shutil.copytree(request.getfixturevalue("language_folder"), tmp_path, dirs_exist_ok=True)
    else:
        folder: Path = request.getfixturevalue("folder")
        if not (folder / "model.nwc").exists():  # this test is run by itself
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                call(list(FRONT.commands(""))[1], capsys)
        for part in ("path", "model.nwc"):  # 100 MB, which nothing changes
            shutil.copytree(folder / part, tmp_path / part, copy_function=os.link)
    for name, content in page.files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return page


def test_first_compression_and_reading_back(
    inside: Path, ray_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = list(FRONT.commands(""))
    assert [line[0] for line in lines] == ["plan", "compress", "verify", "inspect", "decompress"]
    for line in lines:
        call(line, capsys)
    assert (inside / "restored/model.safetensors").exists()
    names = run_python(FRONT)
    assert names["tensor"].shape  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "beside",
    [page for page in DOCS if page.blocks("") or page.blocks("python")],
    ids=lambda page: page.path.stem,
    indirect=True,
)
def test_page(beside: Page, ray_cluster: RayCluster, capsys: pytest.CaptureFixture[str]) -> None:
    for line in beside.commands(""):
        call(line, capsys)
    names = run_python(beside)
    if beside.path.name == "reading.md":
        assert Path("plain/model.safetensors").stat().st_size < Path("path/to/model/model.safetensors").stat().st_size
        assert Path("rows.npy").exists()
        assert len(names["state_dict"]) == len(names["names"])  # type: ignore[arg-type]
        assert names["again"].shape == names["weight"].shape  # type: ignore[attr-defined]
        assert "CompressedTensor" in repr(names["small"].embeddings.word_embeddings.weight)  # type: ignore[attr-defined]
