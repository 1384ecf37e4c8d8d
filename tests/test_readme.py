"""The README's examples, run as they stand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nwc_workflows.cli import COMMANDS, main
from nwc_workflows.demo import model_folder

if TYPE_CHECKING:
    from nwc_infra.cluster import RayCluster

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a real model at path/to/model, as the README assumes."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(model_folder(), path / "path/to/model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


def test_first_compression_and_reading_back(
    folder: Path, ray_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split("#")[0].split() for line in "".join(blocks("")).splitlines() if line.startswith("nwc ")]
    first = [line[1:] for line in lines if "train" not in line and "mine.safetensors" not in line]
    assert [line[0] for line in first] == [
        *("plan", "compress", "verify", "inspect", "decompress"),
        *("inspect", "cat", "export"),
    ]
    for line in first:
        with pytest.raises(SystemExit) as ended:
            main(line)
        assert ended.value.code == 0, capsys.readouterr().err
    assert (folder / "restored/model.safetensors").exists()
    assert (folder / "plain/model.safetensors").stat().st_size < (folder / "restored/model.safetensors").stat().st_size
    assert (folder / "rows.npy").exists()
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert len(names["state_dict"]) == len(names["names"])  # type: ignore[arg-type]
    assert names["again"].shape == names["weight"].shape  # type: ignore[attr-defined]
    assert "CompressedTensor" in repr(names["small"].embeddings.word_embeddings.weight)  # type: ignore[attr-defined]


def test_every_command_is_mentioned_and_none_that_is_not_there() -> None:
    mentioned = set(re.findall(r"(?<!\.)\bnwc ([a-z]+)\b", "\n".join(blocks("") + re.findall(r"`[^`\n]+`", README))))
    assert mentioned <= set(COMMANDS)
    assert set(COMMANDS) <= mentioned


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
            assert link[1:] in [re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles]
        elif "://" not in link:
            assert (ROOT / link).exists(), link
