"""A catalog whose driver is killed -9 ten times and given again each time: the artifacts of an undisturbed run, and no
task that had been stored is done again."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from synthetic import normal, safetensors

from nwc_infra.stores.s3_conditional import PROBE_PREFIX

KILLS = 10
COMMAND = [sys.executable, "-m", "nwc_workflows.cli", "catalog", "run"]
TABLE = ("catalog killed -9", ("models", "kills", "tasks stored when killed", "done again", "artifacts that differ"))


@pytest.fixture(scope="module")
def models(request):
    """Name to files: those of the evaluation kit if it is there, else of a few made up."""
    try:
        kit = request.getfixturevalue("kit") / "models"
    except pytest.skip.Exception:
        return {
            f"m{i}": {"model.safetensors": safetensors({f"w{j}": normal(1024, 2048, seed=9 * i + j) for j in range(3)})}
            for i in range(4)
        }
    folders = sorted({path.parent for path in kit.rglob("*.safetensors")})
    return {
        str(folder.relative_to(kit)): {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        for folder in folders
    }


@pytest.fixture
def listing(direct, bucket):
    """listing(prefix): object to (time of its last change, size)."""

    def get(prefix):
        pages = direct.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        found = [entry for page in pages for entry in page.get("Contents", [])]
        return {entry["Key"]: (entry["LastModified"], entry["Size"]) for entry in found}

    return get


def parts(objects):
    return {key: found for key, found in objects.items() if key.rpartition("/")[2].startswith("part-")}


@pytest.mark.usefixtures("proxy")
def test_ten_kills(models, upload, bucket, direct, listing, report, tmp_path):
    for name, files in models.items():
        upload(f"models/{name}", files)
    files = {}
    for results in ("undisturbed", "killed"):
        files[results] = tmp_path / f"{results}.yaml"
        files[results].write_text(
            f"destination: s3://{bucket}/{results}/{{name}}\nmodels: [{{prefix: s3://{bucket}/models}}]\n"
            "defaults: {bits: 12, preset: max}\nlimits: {workers: 2}\n"
        )
    subprocess.run([*COMMAND, files["undisturbed"]], check=True, capture_output=True, env=os.environ)
    chance, stored, rewritten, kills = random.Random(7), {}, 0, 0
    for number in range(KILLS):
        driver = subprocess.Popen([*COMMAND, files["killed"]], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        enough = len(stored) + chance.randint(1, 2)
        if number % 2 == 0:  # at any time: while it plans, say, or starts Ray
            enough = 0
            time.sleep(chance.uniform(0, 10))
        while driver.poll() is None and len({**stored, **parts(listing("killed"))}) < enough:
            time.sleep(0.2)
        if driver.poll() is None:
            os.kill(driver.pid, signal.SIGKILL)
            kills += 1
        driver.communicate()
        time.sleep(1.0)  # its workers end when they see that it is gone
        found = parts(listing("killed"))
        rewritten += sum(found.get(key, at) != at for key, at in stored.items())
        stored |= found
    done = subprocess.run([*COMMAND, files["killed"], "--output", "json"], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]

    def artifacts(results, keys):
        found = {}
        for key in keys:
            with suppress(direct.exceptions.NoSuchKey):
                found[key] = direct.get_object(Bucket=bucket, Key=f"{results}/{key}")["Body"].read()
        return found

    # What either lists is asked for in both: radosgw may lose an object that was written while it listed from its listings.
    listed = {key.split("/", 1)[1] for results in ("undisturbed", "killed") for key in listing(results)}
    keys = sorted(key for key in listed if not key.startswith(".nwc-catalog/"))
    # A driver that is killed while it makes sure of conditional writes leaves an empty object, which no store of ours lists.
    left = {key for key in keys if key.rpartition("/")[2].startswith(PROBE_PREFIX)}
    assert not any(artifacts("killed", left).values())
    assert len(left) <= kills
    keys = [key for key in keys if key not in left]
    wanted, got = artifacts("undisturbed", keys), artifacts("killed", keys)
    sizes = {key: (len(wanted.get(key, b"")), len(got.get(key, b""))) for key in sorted({*wanted, *got})}
    differing = {key: size for key, size in sizes.items() if wanted.get(key) != got.get(key)}
    report(*TABLE, (len(models), kills, len(stored), rewritten, len(differing)))
    assert kills >= 2
    assert stored
    assert rewritten == 0
    assert differing == {}, "bytes in the undisturbed run and in the killed one"
    assert len([key for key in got if key.endswith("manifest.json")]) == len(models)
