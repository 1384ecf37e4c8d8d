"""The published codec wherever a codec is named: train, compress, verify, decompress, inspect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import lossy_tensors, make_model
from safetensors.torch import save_file

import nwc_core as nwc_package
from nwc_core.artifact.codec_cache import CodecSource
from nwc_core.artifact.objects import ObjectRef, name_from_digest
from nwc_core.codec import Codec
from nwc_core.errors import FormatError
from nwc_core.training.dataset import build_dataset
from nwc_core.training.reference import ReferenceConfig, ReferenceTrainer


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny reference codec: as it starts, which is as a scalar quantiser."""
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    config = ReferenceConfig(width=32, depth=1, steps=1, batch=64, held_out=0)
    path = tmp_path_factory.mktemp("codec") / "reference.safetensors"
    path.write_bytes(ReferenceTrainer(build_dataset([("w", weight)], 0, 0), config, []).run().to_bytes())
    return path


def test_an_artifact_end_to_end(nwc, reference, ray_cluster, tmp_path):
    model = make_model(tmp_path / "model")
    lossy = lossy_tensors()
    weights = sum(tensor.numel() for tensor in lossy.values())
    bits = 8 * reference.stat().st_size / weights + 6  # the artifact holds its codec
    target = tmp_path / "model.nwc"
    code, _, errors = nwc("compress", model, target, "--codec", reference, "--bits", bits)
    assert code == 0, errors
    assert nwc("verify", target, "--source", model)[0] == 0
    with nwc_package.open(target) as artifact:
        assert artifact.codec.architecture == "nwc-paper"
        assert artifact.codec.digest == Codec.load(reference).digest
        for name, tensor in lossy.items():
            assert artifact.index.blocks(name)[0].coder == "nwc"
            decoded = artifact.get_tensor(name)
            error = (decoded.double() - tensor.double()).square().mean() / tensor.double().square().mean()
            assert error < 0.05
    assert nwc("decompress", target, tmp_path / "back")[0] == 0
    assert nwc("inspect", target)[0] == 0


def test_a_codec_larger_than_any_is_not_fetched():
    ref = ObjectRef(object=name_from_digest("codec", "0" * 64), size=1 << 40, sha256="0" * 64)

    def fetch(ref):
        raise AssertionError("it was fetched")

    with pytest.raises(FormatError, match="a codec of at most 8388608 bytes"):
        CodecSource(ref, None, fetch, "s3://bucket/model.nwc/codec.safetensors")


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models" / "a"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    save_file({f"w.{i}": torch.randn(48, 64, generator=generator) for i in range(3)}, folder / "model.safetensors")
    return tmp_path / "models"


def test_training_from_the_command_line(nwc, models, tmp_path):
    target = tmp_path / "mine.safetensors"
    paper = ["train", models, "--codec", target, "--architecture", "nwc-paper", "--held-out", "0.5", "--seed", "1"]
    code, said, errors = nwc(*paper, "--steps", "1", "--output", "json")
    assert code == 0, errors
    said = json.loads(said)
    codec = Codec.load(target)
    assert said["architecture"] == codec.architecture == "nwc-paper"
    assert said["sha256"] == codec.digest
    assert codec.provenance["config"]["width"] == 512
    assert [level["quality"] for level in said["curve"][-1]["levels"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(("option", "value"), [("rounds", 1), ("fit-steps", 1), ("shapes", 2), ("transform", 9)])
def test_options_of_the_other_architecture_are_refused(nwc, models, tmp_path, option, value):
    target = tmp_path / "mine.safetensors"
    paper = ["train", models, "--codec", target, "--architecture", "nwc-paper", "--steps", "1"]
    code, _, errors = nwc(*paper, f"--{option}", value)
    assert code == 2
    assert f"--{option}: found with --architecture nwc-paper" in errors
    assert not target.exists()
