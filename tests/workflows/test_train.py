"""`nwc train`: sources are found and named, the codec works, and what is there is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nwc_core.codec import Codec
from nwc_core.errors import UsageError
from nwc_workflows.cli import main
from nwc_workflows.train import find_sources

QUICK = ["--steps", "4", "--rounds", "1", "--fit-steps", "16", "--shapes", "2"]


def nwc(*arguments: str) -> int:
    """Run the command line; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two small checkpoints below one folder."""
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "group/b"):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        save_file(
            {f"w.{i}": torch.randn(48, 64, generator=generator) for i in range(3)} | {"bias": torch.zeros(64)},
            folder / "model.safetensors",
        )
    return tmp_path / "models"


def test_a_folder_stands_for_the_checkpoints_below_it(models: Path) -> None:
    assert [source.name for source in find_sources([str(models)])] == ["a", "group/b"]
    assert [source.name for source in find_sources([str(models / "a"), str(models / "group")])] == ["a", "b"]


def test_two_sources_of_one_name_are_refused(models: Path) -> None:
    with pytest.raises(UsageError, match="two named 'a'"):
        find_sources([str(models / "a"), str(models / "a")])


def test_train_writes_a_codec_with_its_provenance(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mine.safetensors"
    work = tmp_path / "state"
    arguments = ["train", str(models), "--codec", str(target), "--work", str(work), *QUICK, "--output", "json"]
    assert nwc(*arguments) == 0
    said = json.loads(capsys.readouterr().out)
    codec = Codec.load(target)
    assert said["sha256"] == codec.digest
    assert said["bytes"] == target.stat().st_size
    assert [source["name"] for source in codec.provenance["sources"]] == ["a", "group/b"]
    assert all(len(source["sha256"]) == 64 for source in codec.provenance["sources"])
    assert str(tmp_path) not in json.dumps(codec.provenance)
    assert not work.exists()
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32))
    assert codec.decode(codec.encode(weight, 4.0)).shape == (64, 64)


def test_an_existing_codec_is_not_overwritten(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"precious")
    assert nwc("train", str(models), "--codec", str(target), *QUICK) == 2
    assert "exists already" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"


def test_nothing_to_train_on_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    save_file({"bias": torch.zeros(64)}, folder / "model.safetensors")
    assert nwc("train", str(folder), "--codec", str(tmp_path / "c.safetensors"), *QUICK) != 0
    assert "no weights to train on" in capsys.readouterr().err
    assert not (tmp_path / "c.safetensors").exists()
