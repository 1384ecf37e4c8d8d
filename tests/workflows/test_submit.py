"""What `nwc submit` checks before it sends anything, and what it sends."""

import json

import pytest
import yaml
from ray_head_stub import stub_head

from nwc_core.errors import UsageError
from nwc_infra.wheel import PACKAGES, write_wheel
from nwc_workflows.job_file import check_job_file
from nwc_workflows.submit import ENTRYPOINT, chosen_variables

GOOD = {"destination": "s3://archive/{name}", "models": [{"source": "s3://models/one"}, {"prefix": "s3://models/more"}]}


@pytest.fixture
def job_file(tmp_path):
    """job_file(changes): writes a catalog, the good one with changes."""

    def write(**changes):
        path = tmp_path / "catalog.yaml"
        path.write_text(yaml.safe_dump({**GOOD, **changes}))
        return path

    return write


@pytest.fixture
def head():
    with stub_head() as running:
        yield running


# ---- the job file --------------------------------------------------------------------------------------------------


def test_a_file_with_places_that_a_cluster_reaches_passes(job_file):
    options = {"calibration": "s3://calibrations/{name}", "base": "auto", "scratch": "s3://archive-scratch/{name}"}
    assert len(check_job_file(job_file(defaults=options, codec="default")).models) == 2


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"destination": "/data/{name}"}, "destination"),
        ({"models": [{"source": "s3://a/b"}, {"source": "/data/one"}]}, r"models\[1\]\.source"),
        ({"models": [{"prefix": "file:///data/all"}]}, r"models\[0\]\.prefix"),
        ({"defaults": {"calibration": "/data/calibration"}}, r"defaults\.calibration"),
        ({"models": [{"source": "s3://a/b", "calibration": "/data/c"}]}, r"models\[0\]\.calibration"),
        ({"codec": "/data/codec.safetensors"}, "codec"),
        ({"defaults": {"base": "/data/base.nwc"}}, r"defaults\.base"),
    ],
)
def test_a_local_path_is_refused_unless_it_is_allowed(job_file, changes, key):
    path = job_file(**changes)
    with pytest.raises(UsageError, match=rf"catalog\.yaml: {key}: found the local path .*--allow-local"):
        check_job_file(path)
    check_job_file(path, allow_local=True)


@pytest.mark.parametrize(
    "changes", [{"destination": "out/{name}"}, {"models": [{"source": "one"}]}, {"codec": "c.nwc"}]
)
def test_a_relative_path_leads_nowhere_allowed_or_not(job_file, changes):
    for allow in (True, False):
        with pytest.raises(UsageError, match=r"found the relative path .*leads nowhere on a cluster"):
            check_job_file(job_file(**changes), allow_local=allow)


def test_what_is_wrong_with_a_catalog_is_said_before_anything_is_sent(nwc, job_file, head):
    code, out, err = nwc("submit", job_file(bits=4), "--address", head.address)
    assert (code, out) == (2, "")
    assert "bits" in err
    assert (head.packages, head.submissions) == ({}, [])


# ---- variables -----------------------------------------------------------------------------------------------------


def test_variables_come_from_here_or_from_the_option():
    here = {"AWS_REGION": "eu-central-1", "EMPTY": ""}
    assert chosen_variables(["AWS_REGION", "A=b=c", "EMPTY", "B="], here) == {
        "AWS_REGION": "eu-central-1",
        "A": "b=c",
        "EMPTY": "",
        "B": "",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("MISSING", "found no variable of that name here"),
        ("1A=b", "wanted NAME or NAME=VALUE"),
        ("=b", "wanted NAME or NAME=VALUE"),
        ("AWS_SECRET_ACCESS_KEY", "what looks like a secret"),
        ("NWC_SOURCE_SESSION_TOKEN=x", "what looks like a secret"),
        ("RAY_AUTH_TOKEN", "what looks like a secret"),
        ("db_password=x", "what looks like a secret"),
    ],
)
def test_variables_that_do_not_travel(given, message):
    with pytest.raises(UsageError, match=message) as refused:
        chosen_variables([given], {"AWS_SECRET_ACCESS_KEY": "hidden", "RAY_AUTH_TOKEN": "hidden"})
    assert "hidden" not in str(refused.value)


# ---- what is sent --------------------------------------------------------------------------------------------------


def test_the_job_file_and_nwc_travel_and_nothing_else(nwc, job_file, head, tmp_path, monkeypatch):
    (tmp_path / "private.txt").write_text("of the caller's folder")
    monkeypatch.chdir(tmp_path)
    path = job_file()
    code, out, err = nwc("submit", path, "--address", head.address, "--no-wait", "--env", "NWC_S3_MAX_ATTEMPTS=3")
    assert (code, out.strip()) == (0, "raysubmit_1"), err
    (asked,) = head.submissions
    assert asked["entrypoint"] == ENTRYPOINT
    assert asked["metadata"]["catalog"] == "catalog.yaml"
    assert asked["runtime_env"]["env_vars"] == {"NWC_S3_MAX_ATTEMPTS": "3"}
    sent = {uri.removeprefix("gcs://"): head.packages[uri.removeprefix("gcs://")] for uri in _uris(asked)}
    assert set(sent) == set(head.packages)
    working_dir = head.packages[asked["runtime_env"]["working_dir"].removeprefix("gcs://")]
    assert working_dir == {"job.yaml": path.read_bytes()}
    modules = {name.split("/")[0] for files in sent.values() for name in files if name != "job.yaml"}
    assert {name for name in modules if not name.endswith(".dist-info")} == set(PACKAGES)


def test_what_is_the_same_is_not_sent_again(nwc, job_file, head):
    for _ in range(2):
        assert nwc("submit", job_file(), "--address", head.address, "--no-wait")[0] == 0
    first, second = map(_uris, head.submissions)
    assert first == second
    assert nwc("submit", job_file(price=0.02), "--address", head.address, "--no-wait")[0] == 0
    assert len(set(_uris(head.submissions[2])) - set(first)) == 1  # the job file


def test_a_wheel_of_ones_own_and_none(nwc, job_file, head, tmp_path):
    (tmp_path / "wheels").mkdir()
    wheel = write_wheel(tmp_path / "wheels")
    assert nwc("submit", job_file(), "--address", head.address, "--no-wait", "--wheel", wheel)[0] == 0
    assert nwc("submit", job_file(), "--address", head.address, "--no-wait", "--wheel", "none", "--cpus", 64)[0] == 0
    assert head.submissions[1]["entrypoint"] == f"python -m nwc_infra.autoscaler 64 {ENTRYPOINT}"
    own, none = (submission["runtime_env"] for submission in head.submissions)
    assert len(own["py_modules"]) == len(PACKAGES) + 1
    assert "py_modules" not in none
    code, _, err = nwc("submit", job_file(), "--address", head.address, "--wheel", tmp_path / "missing.whl")
    assert code == 2
    assert "missing.whl: found no wheel that can be read" in err


def _uris(asked):
    return [asked["runtime_env"]["working_dir"], *asked["runtime_env"]["py_modules"]]


# ---- nwc jobs ------------------------------------------------------------------------------------------------------


def test_jobs_list_status_logs_and_stop(nwc, head):
    head.add(
        "done", "FAILED", driver_exit_code=3, end_time=1_700_000_065_000, message="exit code 3, last available logs\nx"
    )
    head.add("under-way", "RUNNING", metadata={"catalog": "c.yaml"})
    head.logs["done"] = "first\nlast\n"
    at = ("--address", head.address)
    code, out, _ = nwc("jobs", "list", *at)
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[2:3]] == [["done", "FAILED", "3"]]
    assert "1 min 05 s" in out
    assert json.loads(nwc("jobs", "list", *at, "--output", "json")[1])["jobs"][1]["status"] == "RUNNING"
    code, out, _ = nwc("jobs", "status", "under-way", *at)
    assert (code, "c.yaml" in out, "RUNNING" in out) == (0, True, True)
    assert nwc("jobs", "logs", "done", *at)[1] == "first\nlast\n"
    told = json.loads(nwc("jobs", "logs", "done", *at, "--output", "json")[1])
    assert (told["log"], told["exit_code"], told["started"]) == ("first\nlast\n", 3, "2023-11-14T22:13:20+00:00")
    assert nwc("jobs", "stop", "under-way", *at)[1] == "job under-way: stopped\n"
    assert head.jobs["under-way"]["status"] == "STOPPED"
    assert nwc("jobs", "stop", "done", *at)[1] == "job done: failed\n"  # had ended before; nothing to stop
    code, out, err = nwc("jobs", "status", "unknown", *at)
    assert (code, out) == (1, "")
    assert "knows no job 'unknown'" in err


@pytest.mark.parametrize(
    ("status", "exit_code", "code", "said"),
    [
        ("SUCCEEDED", 0, 0, "succeeded, exit code 0"),
        ("FAILED", 3, 3, "failed, exit code 3"),
        ("FAILED", 2, 2, "failed, exit code 2"),
        ("FAILED", 137, 1, "failed: killed"),
        ("FAILED", None, 1, "failed: killed"),
        ("STOPPED", None, 1, "stopped: killed"),
    ],
)
def test_the_exit_code_is_the_jobs_own(capsys, status, exit_code, code, said):
    from nwc_infra.jobs import JobInfo
    from nwc_workflows.commands.job_options import end_of
    from nwc_workflows.console import Output

    info = JobInfo("job", status, exit_code, "killed, last available logs (truncated):\nx", "", {}, None, None)
    assert end_of(Output(), info) == code
    assert capsys.readouterr().out == f"job job: {said}\n"


def test_an_address_is_needed(nwc, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    code, _, err = nwc("jobs", "list")
    assert code == 2
    assert "--address" in err
