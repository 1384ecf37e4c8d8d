"""Running a catalog: every model comes to its end, whatever becomes of the others; what is done is not done again."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time

import pytest
from catalogs import SOUND, make_models, record_path, write_catalog
from checkpoints import contents, has_manifest, normal, save, snapshot

import nwc_core
from nwc_core.errors import ClusterLostError, NwcError, StoreError
from nwc_core.store import open_store
from nwc_infra.stores.local import LocalStore
from nwc_workflows import request
from nwc_workflows.catalog import model as model_module
from nwc_workflows.catalog import run as run_module
from nwc_workflows.catalog.file import Limits
from nwc_workflows.catalog.heartbeat import Heartbeat
from nwc_workflows.catalog.records import Records, new_status
from nwc_workflows.catalog.threads import Stop, run_side_by_side


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Shared: not to be changed."""
    return make_models(tmp_path_factory.mktemp("catalog") / "models")


@pytest.fixture(scope="module")
def finished(ray_cluster, models, tmp_path_factory):
    """Results of a run of all sound models. Shared: not to be changed."""
    from nwc_workflows.cli import main

    folder = tmp_path_factory.mktemp("finished")
    path = write_catalog(folder / "c.yaml", models, folder / "out")
    with pytest.raises(SystemExit) as ended:
        main(["catalog", "run", str(path)])
    assert ended.value.code == 3
    return folder / "out"


@pytest.fixture
def own(finished, tmp_path):
    """A copy of these results to change."""
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture
def no_ray(monkeypatch):
    def refuse(*_):
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(run_module, "cluster", refuse)


def record(results, name):
    return json.loads(record_path(results, name).read_text())


def test_a_failing_model_does_not_stop_the_others(nwc, models, tmp_path, ray_cluster):
    path = write_catalog(tmp_path / "c.yaml", models, tmp_path / "out")
    code, out, err = nwc("catalog", "run", path, "--output", "json")
    assert code == 3
    data = json.loads(out)
    assert [(model["name"], model["outcome"]) for model in data["models"]] == [
        ("a", "done"),
        ("b/deep", "done"),
        ("bad", "failed"),
        ("c", "done"),
    ]
    assert (data["done"], data["done_already"], data["failed"]) == (3, 0, 1)
    reason = "tensor 'w': found bytes up to 16456; wanted at most 16455, the file's size"
    assert f"bad: failed: {models}/bad/model.safetensors: {reason}" in err
    assert reason in data["models"][2]["reason"]
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "bad").exists()
    for name in SOUND:
        stored = contents(tmp_path / "out" / name)
        with nwc_core.open(tmp_path / "out" / name) as artifact:
            assert artifact.manifest.job["bits"] == (15.0 if name == "a" else 20.0)
        kept = record(tmp_path / "out", name)
        assert (kept["state"], kept["destination"]) == ("done", name)
        assert kept["artifact_nbytes"] == sum(map(len, stored.values()))
        trace = json.loads((tmp_path / "out" / ".nwc-catalog" / name / "timeline.json").read_text())
        (task,) = [event for event in trace["traceEvents"] if event.get("cat") == "task"]
        assert task["dur"] > 0
        assert task["name"].startswith("w#0")


def test_the_same_bytes_as_by_itself(nwc, models, finished, tmp_path, ray_cluster):
    for name in SOUND:
        bits = "15" if name == "a" else "20"
        assert nwc("compress", models / name, tmp_path / "x", "--bits", bits, "--preset", "scalar")[0] == 0
        assert contents(tmp_path / "x") == contents(finished / name)
        shutil.rmtree(tmp_path / "x")


def test_what_is_done_is_left_alone_and_no_weight_is_read(nwc, models, own, tmp_path, no_ray, monkeypatch):
    path = write_catalog(tmp_path / "c.yaml", models, own)
    path.write_text(path.read_text().replace(f"prefix: {models}", f'prefix: {models}, exclude: ["bad"]'))
    monkeypatch.setattr(LocalStore, "get_range", lambda *_: pytest.fail("a file was read"))
    before = snapshot(own)
    code, out, err = nwc("catalog", "run", path)
    assert code == 0, err
    assert out.startswith("0 models compressed, 3 were already, 0 failed")
    assert snapshot(own) == before


def test_a_source_with_another_version_but_the_same_content(nwc, models, own, tmp_path, ray_cluster):
    copied = shutil.copytree(models, tmp_path / "models")
    path = write_catalog(tmp_path / "c.yaml", copied, own)
    before = {name: snapshot(own / name) for name in SOUND}
    earlier = record(own, "a")
    code, _, err = nwc("catalog", "run", path)
    assert code == 3
    assert "a: done already" in err
    assert {name: snapshot(own / name) for name in SOUND} == before
    later = record(own, "a")
    assert later["versions"] != earlier["versions"]
    assert [later[key] for key in ("seconds", "tasks", "fingerprint")] == [
        earlier[key] for key in ("seconds", "tasks", "fingerprint")
    ]


def test_a_source_with_other_content_is_refused(nwc, models, own, tmp_path, ray_cluster):
    copied = shutil.copytree(models, tmp_path / "models")
    save(copied / "a" / "model.safetensors", {"w": normal(64, 128, seed=9), "norm": normal(64, seed=2)})
    before = snapshot(own / "a")
    code, _, err = nwc("catalog", "run", write_catalog(tmp_path / "c.yaml", copied, own))
    assert code == 3
    assert "a: failed: " in err
    assert "the destination holds a different artifact (same options, other weights or files)" in err
    assert snapshot(own / "a") == before
    assert record(own, "a")["state"] == "failed"


def test_other_options_are_refused(nwc, models, own, tmp_path, ray_cluster):
    path = write_catalog(tmp_path / "c.yaml", models, own)
    path.write_text(path.read_text().replace("bits: 15", "bits: 14"))
    code, _, err = nwc("catalog", "run", path)
    assert code == 3
    assert "a: failed: " in err
    assert "bits: there 15.0, here 14.0" in err


@pytest.mark.parametrize("lost", ["artifact", "record", "payload"])
def test_what_was_lost_is_noticed(nwc, models, own, tmp_path, ray_cluster, finished, lost):
    if lost == "artifact":
        shutil.rmtree(own / "a")
    elif lost == "record":
        record_path(own, "a").unlink()
    else:
        next((own / "a").glob("payload-*")).unlink()
    code, _, err = nwc("catalog", "run", write_catalog(tmp_path / "c.yaml", models, own))
    assert code == 3
    if lost == "payload":
        assert "a: failed: " in err
        assert "found nothing; wanted" in err
    else:
        assert contents(own / "a") == contents(finished / "a")
        assert record(own, "a")["state"] == "done"


def test_nothing_could_be_done(nwc, models, tmp_path, ray_cluster):
    path = tmp_path / "c.yaml"
    path.write_text(f"destination: {tmp_path}/out/{{name}}\nmodels:\n- source: {models}/bad\n- source: {models}/none\n")
    code, out, err = nwc("catalog", "run", path)
    assert code == 1
    assert out.startswith("0 models compressed, 0 were already, 2 failed")
    assert f"none: failed: {models}/none: no such object" in err or f"none: failed: {models}" in err


def test_an_unknown_codec_is_one_error(nwc, models, tmp_path, no_ray):
    code, out, err = nwc(
        "catalog", "run", write_catalog(tmp_path / "c.yaml", models, tmp_path / "out", "codec: best\n")
    )
    assert (code, out) == (1, "")
    assert "nwc: error: unknown codec 'best'" in err
    assert not (tmp_path / "out").exists()


def test_records_that_cannot_be_written_stop_everything(nwc, models, tmp_path, ray_cluster):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".nwc-catalog").write_text("in the way")
    code, out, err = nwc("catalog", "run", write_catalog(tmp_path / "c.yaml", models, tmp_path / "out"))
    assert (code, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("nwc: error:")]
    assert "/out/.nwc-catalog/" in line
    assert "an object is in the way" in line
    assert not any(has_manifest(tmp_path / "out" / name) for name in SOUND)


def test_a_lost_cluster_stops_everything(nwc, models, tmp_path, ray_cluster, monkeypatch):
    def lose(*_, **__):
        raise ClusterLostError("the Ray cluster was lost: no answer")

    monkeypatch.setattr(request.Prepared, "run", lose)
    path = write_catalog(tmp_path / "c.yaml", models, tmp_path / "out", "limits: {models: 1}\n")
    code, out, err = nwc("catalog", "run", path)
    assert (code, out) == (1, "")
    assert "nwc: error: the Ray cluster was lost: no answer" in err
    assert record(tmp_path / "out", "a")["reason"] == "the Ray cluster was lost: no answer"
    assert not record_path(tmp_path / "out", "c").exists()


def test_an_unforeseen_error_is_its_models_own(nwc, models, tmp_path, ray_cluster, monkeypatch):
    prepare = model_module.prepare

    def fail_for_a(asked, codec):
        if asked.source.endswith("/a"):
            raise ZeroDivisionError("division by zero")
        return prepare(asked, codec)

    monkeypatch.setattr(model_module, "prepare", fail_for_a)
    code, _, err = nwc("catalog", "run", write_catalog(tmp_path / "c.yaml", models, tmp_path / "out"))
    assert code == 3
    assert "a: failed: ZeroDivisionError: division by zero" in err
    assert has_manifest(tmp_path / "out" / "c")


def test_an_interrupt_ends_models_between_two_tasks(nwc, models, tmp_path, ray_cluster, monkeypatch, small_tasks):
    big = save(tmp_path / "big" / "model.safetensors", {f"w{i}": normal(256, 256, seed=i) for i in range(6)})
    path = tmp_path / "c.yaml"
    path.write_text(f"destination: {tmp_path}/out/{{name}}\nmodels: [{{source: {big.parent}, name: big}}]\n")
    real = run_module.run_side_by_side

    def interrupted(function, items, threads, stop):
        """As if Ctrl-C came while the first task runs."""

        def first_task_done():
            while not list((tmp_path / "out" / "big").glob("part-*")):
                time.sleep(0.01)
            stop.now(KeyboardInterrupt())

        threading.Thread(target=first_task_done, daemon=True).start()
        real(function, items, threads, stop)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "run_side_by_side", interrupted)
        code, out, err = nwc("catalog", "run", path)
    assert (code, out) == (130, "")
    assert "nwc: interrupted" in err
    assert not has_manifest(tmp_path / "out" / "big")
    assert record(tmp_path / "out", "big")["reason"] == "interrupted; the same command goes on from here"
    code, _, err = nwc("catalog", "run", path)
    assert code == 0
    assert "tasks resumed" in err
    kept = record(tmp_path / "out", "big")
    assert 0 < kept["tasks_resumed"] < kept["tasks"]
    assert nwc("verify", tmp_path / "out" / "big", "--source", big.parent)[0] == 0


def test_models_overlap(nwc, models, tmp_path, ray_cluster, monkeypatch):
    """Two models meet between planning and coding: with one at a time this would wait for ever."""
    meeting = threading.Barrier(2, timeout=60)
    prepare = model_module.prepare

    def meet(asked, codec):
        if not asked.source.endswith(("bad", "c")):
            meeting.wait()
        return prepare(asked, codec)

    monkeypatch.setattr(model_module, "prepare", meet)
    code, _, err = nwc("catalog", "run", write_catalog(tmp_path / "c.yaml", models, tmp_path / "out"))
    assert code == 3
    assert err.count("failed:") == 1


def test_quality_and_gates_work_as_for_one_model(nwc, tmp_path, ray_cluster):
    """A gate without its data is found in the file; data that is not there is the model's failure."""
    make_models(tmp_path / "models")
    more = "limits: {models: 2, workers: 2, memory_gib: 8, requests_per_second: 100}\n"
    path = write_catalog(tmp_path / "c.yaml", tmp_path / "models", tmp_path / "out", more)
    path.write_text(path.read_text().replace("bits: 15", "bits: 15, gate: kl=0.1, quality_data: nothing.txt"))
    code, _, err = nwc("catalog", "run", path)
    assert code == 3
    assert "a: failed: " in err
    assert "nothing.txt" in err
    assert has_manifest(tmp_path / "out" / "c")


def test_a_cluster_needs_a_scratch_place_that_it_reaches(nwc, models, tmp_path, no_ray):
    path = write_catalog(tmp_path / "c.yaml", models, tmp_path / "out")
    path.write_text(path.read_text().replace("bits: 15", "bits: 15, recover: 1.0, recover_data: texts.txt"))
    code, _, err = nwc("catalog", "run", path, "--address", "head:6379")
    assert code == 2
    assert "a: scratch: found none; wanted a place for unfinished artifacts" in err


@pytest.mark.parametrize(("before", "after"), [(None, None), ("7", "7")])
def test_requests_per_second_are_shared_by_all_processes(monkeypatch, before, after):
    variable = "NWC_S3_REQUESTS_PER_SECOND"
    monkeypatch.delenv(variable, raising=False)
    if before:
        monkeypatch.setenv(variable, before)
    with run_module._paced(Limits(requests_per_second=100), workers=3):
        assert float(os.environ[variable]) == 25
        assert open_store("s3://bucket/x").bucket.options.requests_per_second == 25
    assert os.environ.get(variable) == after
    with run_module._paced(Limits(), workers=3):
        assert os.environ.get(variable) == before


# --- parts


def test_the_heartbeat_writes_until_the_end(tmp_path):
    records = Records(LocalStore(tmp_path))
    status = new_status("a", "a", "file:///a")
    with Heartbeat(records, seconds=0.01) as heartbeat:
        heartbeat.begin(status)
        while records.read("a").updated <= status.updated:
            time.sleep(0.005)
        heartbeat.end(status.changed(state="done"))
        written = record_path(tmp_path, "a").stat().st_mtime_ns
        time.sleep(0.1)
    assert records.read("a").state == "done"
    assert record_path(tmp_path, "a").stat().st_mtime_ns == written


def test_a_heartbeat_survives_a_store_that_fails(tmp_path):
    records, beats = Records(LocalStore(tmp_path)), []

    def fail(status):
        beats.append(status)
        raise StoreError("key", "no answer")

    with Heartbeat(records, seconds=0.01) as heartbeat:
        heartbeat.begin(new_status("a", "a", "file:///a"))
        records.write = fail
        while len(beats) < 3:
            time.sleep(0.005)


def test_side_by_side_begins_nothing_after_an_error():
    begun, stop = [], Stop()

    def work(item):
        begun.append(item)
        if item == 2:
            raise NwcError("lost")

    with pytest.raises(NwcError, match="lost"):
        run_side_by_side(work, range(10), 1, stop)
    assert begun == [0, 1, 2]
