"""A file given to `nwc train --work` may be anybody's: no code in it is ever run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from codec_samples import gaussian

from nwc_core.errors import NwcError
from nwc_core.training.dataset import build_dataset
from nwc_core.training.loop import Trainer, TrainingConfig

CONFIG = TrainingConfig(shapes=1, steps=1, rounds=1, fit_steps=4, held_out=0.0, transforms=())


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._path,)


def as_pickle(bomb: Bomb) -> bytes:
    return pickle.dumps({"identity": bomb})


def as_archive(bomb: Bomb) -> bytes:
    """The format that torch writes today."""
    buffer = io.BytesIO()
    torch.save({"identity": bomb}, buffer)
    return buffer.getvalue()


def as_archive_with_other_pickle(bomb: Bomb) -> bytes:
    """An honest archive whose pickle is exchanged."""
    buffer, out = io.BytesIO(), io.BytesIO()
    torch.save({"identity": "x", "network": torch.ones(3)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(bomb) if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()


@pytest.mark.parametrize("make", [as_pickle, as_archive, as_archive_with_other_pickle])
def test_a_pickle_bomb_does_not_go_off(tmp_path: Path, make: object) -> None:
    assert callable(make)
    trap, work = tmp_path / "trap", tmp_path / "work.pt"
    work.write_bytes(make(Bomb(trap)))
    with pytest.raises(NwcError):
        _resume(work)
    assert not trap.exists()


def test_the_bomb_would_go_off_otherwise(tmp_path: Path) -> None:
    trap, work = tmp_path / "trap", tmp_path / "work.pt"
    work.write_bytes(as_archive(Bomb(trap)))
    torch.load(work, weights_only=False)
    assert trap.is_dir()


def _resume(work: Path) -> Trainer:
    dataset = build_dataset([("m/w", gaussian(64, 64))], CONFIG.held_out, CONFIG.seed)
    return Trainer(dataset, CONFIG, [{"name": "m", "sha256": "0" * 64}], work)
