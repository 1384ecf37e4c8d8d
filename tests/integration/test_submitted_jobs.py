"""`nwc submit` to a real Ray head that asks for a token, from S3 to S3, out of an environment that knows nothing of it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray_head import RayHead
from synthetic import small_model

from nwc_infra.job_token import Token
from nwc_infra.jobs import JobServer
from nwc_workflows.submit import packed

TABLE = ("jobs on a cluster", ("what", "outcome"))


@pytest.fixture(scope="module")
def head(session_proxy):
    """Its environment, at the moment when it starts, says where S3 is, and who may use it."""
    with tempfile.TemporaryDirectory(prefix="nwc-ray-", ignore_cleanup_errors=True) as folder:
        running = RayHead(Path(folder))
        running.start()
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture
def clean(tmp_path):
    """clean(*arguments): `nwc ARGUMENTS` with neither PYTHONPATH nor S3 nor Ray in its environment, in an empty folder."""
    home, folder = tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    folder.mkdir()
    environment = {"PATH": os.defpath, "HOME": str(home), "LANG": "C.UTF-8"}

    def start(*arguments, **variables):
        return subprocess.Popen(
            [sys.executable, "-m", "nwc_workflows.cli", *map(str, arguments)],
            env={**environment, **variables},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(*arguments, **variables):
        with start(*arguments, **variables) as process:
            out, err = process.communicate(timeout=180)
        assert list(folder.iterdir()) == []
        return process.returncode, out, err

    run.start = start
    return run


@pytest.fixture
def token_file(head, tmp_path):
    path = tmp_path / "token"
    path.write_text(head.token + "\n")
    return path


@pytest.fixture
def at(head, token_file):
    """The options that lead to the cluster."""
    return "--address", head.address, "--token-file", token_file


@pytest.fixture
def server(head):
    return JobServer(head.address, Token(head.token, "the test"))


@pytest.fixture
def sleeping(server):
    """A job that would take ten minutes."""
    job = server.submit("echo one; echo two; sleep 600", runtime_env={}, metadata={})
    yield job
    server.stop(job)


def catalog(path, bucket, *sources):
    models = [{"source": f"s3://{bucket}/{source}"} for source in sources]
    path.write_text(
        json.dumps({"destination": f"s3://{bucket}/out/{{name}}", "defaults": {"bits": 5}, "models": models})
    )
    return path


@pytest.mark.usefixtures("proxy")
def test_a_catalog_is_submitted_followed_and_its_artifact_verifies(
    clean, at, upload, bucket, contents, nwc, tmp_path, report
):
    upload("models/first", small_model(seed=1))
    before = contents("models")
    job = catalog(tmp_path / "catalog.yaml", bucket, "models/first")
    code, out, err = clean("submit", job, *at)
    assert code == 0, out + err
    assert "first" in out  # the log of `nwc catalog run`
    assert "succeeded, exit code 0" in out.splitlines()[-1]
    code, out, err = nwc("verify", f"s3://{bucket}/out/first", "--source", f"s3://{bucket}/models/first")
    assert code == 0, out + err
    assert contents("models") == before
    artifact = contents("out/first")
    report(*TABLE, ("S3 to S3, followed to the end", f"exit code 0, {len(artifact)} objects verify"))

    # A model that is not there fails; the other one is done already; the exit code is the job's.
    job = catalog(tmp_path / "more.yaml", bucket, "models/first", "models/second")
    code, out, err = clean("submit", job, *at, "--output", "json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["status"]) == (3, 3, "FAILED"), out + err
    assert "second" in err  # beside JSON the log goes there
    assert contents("out/first") == artifact
    report(*TABLE, ("a second one with a model that is missing", "exit code 3, the first model untouched"))


def test_the_code_that_runs_is_the_code_that_was_shipped(server, head):
    program = (
        "import nwc_core as a, nwc_infra as b, nwc_workflows as c; print('HERE', *[m.__file__ for m in (a, b, c)])"
    )
    with packed(b"{}", None) as runtime_env:
        job = server.submit(f'echo HERE $(ls); python -c "{program}"', runtime_env=runtime_env, metadata={})
    said = []
    assert server.follow(job, said.append).exit_code == 0
    folder, files = [line for line in "".join(said).splitlines() if line.startswith("HERE ")]
    assert folder.split()[1:] == ["job.yaml"]  # all that is in the working directory
    files = files.split()[1:]
    assert len(files) == 3
    assert all(file.startswith(str(head.folder)) and "/py_modules_files/" in file for file in files)


def test_without_the_token_nothing_is_told(clean, head, tmp_path, report):
    for variables, wanted in (({}, "asks for a token"), ({"RAY_AUTH_TOKEN": "wrong" * 10}, "refuses the token")):
        code, out, err = clean("jobs", "list", "--address", head.address, **variables)
        (line,) = err.splitlines()
        assert (code, out) == (1, "")
        assert line.startswith(f"nwc: error: {head.address}: {wanted}")
        assert "wrongwrong" not in line
        report(*TABLE, (f"token: {'wrong' if variables else 'none'}", line.removeprefix("nwc: error: ")))


def test_ctrl_c_ends_the_following_and_stop_the_job(clean, at, sleeping, server, report):
    with clean.start("jobs", "logs", sleeping, "--follow", *at) as following:
        assert following.stdout is not None
        while "two" not in following.stdout.readline():
            assert following.poll() is None
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=60)
    assert following.returncode == 130
    assert f"the job goes on; `nwc jobs logs {sleeping} --follow --address" in err
    assert "Traceback" not in err
    assert server.info(sleeping).status == "RUNNING"

    code, out, _ = clean("jobs", "status", sleeping, *at)
    assert code == 0
    assert "RUNNING" in out
    code, out, _ = clean("jobs", "list", *at, "--output", "json")
    assert sleeping in [job["id"] for job in json.loads(out)["jobs"]]
    code, out, _ = clean("jobs", "stop", sleeping, *at)
    assert (code, out.strip()) == (0, f"job {sleeping}: stopped")
    code, out, _ = clean("jobs", "logs", sleeping, *at)
    assert code == 0
    assert "one\ntwo\n" in out  # Ray's own lines come before and behind
    code, out, _ = clean("jobs", "logs", sleeping, "--follow", *at)
    assert code == 1
    assert out.splitlines()[-1].startswith(f"job {sleeping}: stopped: ")
    report(*TABLE, ("Ctrl-C while following, then `nwc jobs stop`", "exit code 130, the job went on; then stopped"))
