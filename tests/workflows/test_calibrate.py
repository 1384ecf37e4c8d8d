"""`nwc calibrate`: the command, on Ray, stopped and started again."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from calibration_models import calibrate_here, data_for, make, save_images
from checkpoints import contents
from evaluation_models import FACTORY, change_weights, make_cnn, text
from s3_server import new_bucket, raw_client, s3_server

from nwc_core.errors import AlreadyExistsError, FormatError, IntegrityError, UsageError
from nwc_core.store import open_store
from nwc_workflows import calibrate as module
from nwc_workflows.calibration import plan, tasks
from nwc_workflows.calibration.preparation import CalibrateOptions, prepare
from nwc_workflows.calibration.reading import Calibration

pytest.importorskip("transformers")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    """(model, data, folder of its calibration made without Ray). Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("mixtral")
    model, data = make(folder / "model", "mixtral"), data_for(folder, "mixtral", words=400)
    calibrate_here(model, data, folder / "out", window=24)
    return model, data, folder / "out"


def command(mixtral, destination, *more):
    model, data, _ = mixtral
    return ("calibrate", model, destination, "--data", data, "--window", 24, *more)


# --- the command


def test_the_command_says_what_it_did(mixtral, nwc, tmp_path, ray_cluster):
    code, out, err = nwc(*command(mixtral, tmp_path / "out"))
    assert code == 0, err
    assert contents(tmp_path / "out") == contents(mixtral[2])
    lines = out.splitlines()
    assert lines[0].startswith("weight ")
    assert lines[0].endswith("matrices  positions  Hessian from prior, %  rows from prior, %  share of loss, %")
    assert any(line.startswith("model.layers.1.block_sparse_moe.experts.3.w2.weight") for line in lines)
    assert lines[-1].startswith(f"{tmp_path}/out: 36 weights, ")
    assert "language: 17 windows of " in err


def test_json_and_again(mixtral, nwc, tmp_path, ray_cluster):
    code, out, err = nwc(*command(mixtral, tmp_path / "out", "--output", "json"))
    assert code == 0, err
    found = json.loads(out)
    assert found["created"] is True
    assert found["kind"] == "language"
    assert found["data"].items() >= {"windows": 17, "window": 24, "tokens": 400, "predictions": 383}.items()
    assert found["options"] == {"kind": "language", "factory": None, "seed": 0}
    assert sum(weight["loss_share"] for weight in found["weights"]) == pytest.approx(1)
    assert len(found["weights"]) == 36
    before = contents(tmp_path / "out")
    code, out, _ = nwc(*command(mixtral, tmp_path / "out"))
    assert code == 0
    assert "holds this very calibration already" in out
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("more", [("--seed", 1), ("--max-tokens", 200), ("--input-only",), ("--window", 20)])
def test_another_calibration_in_the_way(mixtral, failing, tmp_path, ray_cluster, more):
    import shutil

    shutil.copytree(mixtral[2], tmp_path / "out")
    line = failing(*command(mixtral, tmp_path / "out", *more))
    assert "holds another calibration" in line
    assert contents(tmp_path / "out") == contents(mixtral[2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-items", "3"), "--max-items says nothing about a model of the kind 'language'"),
        (("--kind", "classifier"), "holds texts; wanted what a model of the kind 'classifier' is run on"),
        (("--factory", "nothing"), "--factory"),
        (("--window", "65"), "--window: found 65; wanted at most 64"),
    ],
)
def test_options_that_make_no_sense(mixtral, nwc, tmp_path, arguments, words):
    code, out, err = nwc(*command(mixtral, tmp_path / "out", *arguments))
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "out").exists()


def test_so_many_tokens_are_spread_over_the_text(mixtral):
    """A text is often several after each other."""
    whole = prepare(str(mixtral[0]), CalibrateOptions(mixtral[1], window=24)).items.task.windows
    some = prepare(str(mixtral[0]), CalibrateOptions(mixtral[1], window=24, max_tokens=100))
    assert [window.tolist() for window in some.items.task.windows] == [whole[i].tolist() for i in (0, 4, 8, 12)]
    assert some.described_options["subset"] == "evenly"
    least = prepare(str(mixtral[0]), CalibrateOptions(mixtral[1], window=24, max_tokens=9))
    assert [window.tolist() for window in least.items.task.windows] == [whole[0].tolist()[:9]]


def test_a_place_that_holds_an_artifact(mixtral, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    prepared = prepare(str(mixtral[0]), CalibrateOptions(mixtral[1], window=24))
    with pytest.raises(
        AlreadyExistsError, match=r"manifest\.json: the destination holds an artifact; nothing was changed"
    ):
        module.calibrate(prepared, open_store(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_destination_inside_the_model(mixtral, tmp_path):
    prepared = prepare(str(mixtral[0]), CalibrateOptions(mixtral[1], window=24))
    with pytest.raises(UsageError, match="inside the model"):
        module.calibrate(prepared, open_store(mixtral[0] / "calibration"))


def test_data_that_is_not_there(failing, mixtral, tmp_path):
    assert "no such file" in failing("calibrate", mixtral[0], tmp_path / "out", "--data", tmp_path / "nothing.txt")


def test_no_decoder_start_is_named(tmp_path):
    folder = make(tmp_path / "model", "t5")
    config = json.loads((folder / "config.json").read_text())
    del config["decoder_start_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="decoder_start_token_id"):
        prepare(str(folder), CalibrateOptions(data_for(tmp_path, "t5")))


# --- one result, however it is computed


@pytest.mark.parametrize(("max_memory", "workers"), [(1, 2), (1_000_000, 1), (None, 1)])
def test_the_same_bytes_from_any_groups_and_workers(mixtral, tmp_path, ray_cluster, max_memory, workers):
    prepared = prepare(str(mixtral[0]), CalibrateOptions(mixtral[1], window=24))
    options = {} if max_memory is None else {"max_memory": max_memory}
    done = module.calibrate(prepared, open_store(tmp_path / "out"), workers=workers, **options)
    assert contents(tmp_path / "out") == contents(mixtral[2])
    assert {1: 36, 1_000_000: done.groups, None: 1}[max_memory] == done.groups
    assert (max_memory == 1_000_000) == (1 < done.groups < 36)


def test_another_seed_draws_other_labels(mixtral, tmp_path):
    other = calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24, seed=1).calibration
    one = Calibration.open(mixtral[2])
    name = "lm_head.weight"
    assert other.fingerprint != one.fingerprint
    assert not np.array_equal(other.get(name).hessian, one.get(name).hessian)
    np.testing.assert_allclose(other.get(name).hessian, one.get(name).hessian, atol=0.7)


def test_a_factory_of_this_folder(nwc, tmp_path, ray_cluster, monkeypatch):
    """Ray's workers find it, whose current directory is another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factory", raising=False)
    (tmp_path / "own_factory.py").write_text(FACTORY)
    make_cnn(tmp_path / "model")
    save_images(tmp_path, 20, size=8)
    code, out, err = nwc(
        *("calibrate", "model", "out", "--data", "images.npz", "--factory", "own_factory:make", "--output", "json")
    )
    assert code == 0, err
    found = {weight["name"]: weight for weight in json.loads(out)["weights"]}
    assert found.keys() == {"conv.weight", "linear.weight"}
    assert found["conv.weight"]["positions"] == [20 * 6 * 6]
    assert found["linear.weight"]["positions"] == [20]


def test_an_artifact_is_a_model_too(tmp_path):
    from evaluation_models import artifact_of

    model = make(tmp_path / "model", "llama")
    artifact = artifact_of(model, tmp_path / "model.nwc", bits=40.0)
    data = data_for(tmp_path, "llama")
    found = calibrate_here(artifact, data, tmp_path / "out", window=24).calibration
    assert found.names == calibrate_here(model, data, tmp_path / "other", window=24).calibration.names


def test_on_s3(mixtral, monkeypatch, tmp_path):
    with s3_server() as url:
        bucket = new_bucket(url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        calibrate_here(mixtral[0], mixtral[1], f"s3://{bucket}/calibration", window=24)
        keys = {of["Key"] for of in raw_client(url).list_objects_v2(Bucket=bucket)["Contents"]}
        assert {key.removeprefix("calibration/") for key in keys} == set(contents(mixtral[2]))
        there, here = Calibration.open(f"s3://{bucket}/calibration"), Calibration.open(mixtral[2])
        assert there.record == here.record
        name = here.names[3]
        np.testing.assert_array_equal(there.get(name).hessian, here.get(name).hessian)


# --- experts, and what the data hardly reached


def test_an_expert_that_no_token_met_gets_the_mean_of_its_stack(tmp_path):
    model = make(tmp_path / "model", "mixtral")

    def never(tensors):
        for name, tensor in tensors.items():
            if name.endswith("gate.weight"):
                tensor[:] = 0  # a tie: the first two are taken

    change_weights(model, never)
    found = calibrate_here(model, data_for(tmp_path, "mixtral", words=400), tmp_path / "out", window=24).calibration
    record = {weight.name: weight for weight in found.record.weights}
    name = "model.layers.0.block_sparse_moe.experts.{}.{}.weight"
    met = [e for e in range(4) if record[name.format(e, "w1")].positions[0]]
    assert len(met) == 2
    for kind in ("w1", "w2", "w3"):
        one, other = (found.get(name.format(e, kind)) for e in range(4) if e not in met)
        np.testing.assert_array_equal(one.hessian, other.hessian)
        for e in range(4):
            of = record[name.format(e, kind)]
            assert e in met or of.shrinkage[0] == 1.0
            rows = found.get(name.format(e, kind)).rows
            assert rows.min() > 0
            if e in met:
                assert rows.mean() > 3 * one.rows.mean()


def test_hardly_reached_weights_are_said(tmp_path, nwc, ray_cluster):
    model = make(tmp_path / "model", "mixtral")
    (tmp_path / "text.txt").write_text(text(30))
    code, _, err = nwc("calibrate", model, tmp_path / "out", "--data", tmp_path / "text.txt", "--window", 15)
    assert code == 0
    assert "hardly reached: model.layers." in err


# --- stopped, and started again


def counted(monkeypatch, fail_at=None):
    """Counts the tasks that measure; one may fail."""
    done = []
    original = module.measure

    def measure(placements, chunk, *rest, **shared):
        if len(done) == fail_at:
            raise FormatError("here", "a failure", "none")
        done.append(chunk)
        return original(placements, chunk, *rest, **shared)

    monkeypatch.setattr(module, "measure", measure)
    return done


def test_what_was_finished_is_not_computed_again(mixtral, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        counted(patch, fail_at=5)
        with pytest.raises(FormatError, match="a failure"):
            calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24)
    stored = contents(tmp_path / "out")
    assert len(stored) == 5
    assert all(name.startswith("partial-") for name in stored)
    damaged = tmp_path / "out" / sorted(stored)[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = counted(monkeypatch)
    found = calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24)
    assert found.resumed == 4
    assert len(done) == plan.MAX_CHUNKS - 4
    assert contents(tmp_path / "out") == contents(mixtral[2])


def test_a_failure_at_the_end_costs_no_measuring(mixtral, tmp_path, monkeypatch):
    def fail(*arguments, **shared):
        raise FormatError("here", "a failure", "none")

    with monkeypatch.context() as patch:
        patch.setattr(module, "finish", fail)
        with pytest.raises(FormatError, match="a failure"):
            calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24)
    done = counted(monkeypatch)
    assert calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24).resumed == plan.MAX_CHUNKS
    assert done == []
    assert contents(tmp_path / "out") == contents(mixtral[2])


def test_partial_sums_of_another_run_are_not_taken(mixtral, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        counted(patch, fail_at=5)
        with pytest.raises(FormatError):
            calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24, seed=1)
    assert calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24).resumed == 0
    assert contents(tmp_path / "out") == contents(mixtral[2])


def test_weights_that_change_in_between_are_noticed(tmp_path, monkeypatch):
    model, data = make(tmp_path / "model", "llama"), data_for(tmp_path, "llama")
    original = module.take_survey

    def survey_then_change(*arguments, **shared):
        found = original(*arguments, **shared)
        change_weights(model, lambda tensors: tensors["lm_head.weight"].mul_(2))
        return found

    monkeypatch.setattr(module, "take_survey", survey_then_change)
    with pytest.raises(IntegrityError, match="as when the calibration began"):
        calibrate_here(model, data, tmp_path / "out", window=24)
    assert contents(tmp_path / "out") == {}


def test_a_faster_rival_wins(mixtral, tmp_path, monkeypatch):
    """Another calibration of the same place is committed while this one runs."""
    original = module.finish

    def finish(*arguments, **shared):
        if not (tmp_path / "out" / "calibration.json").exists():
            (tmp_path / "out" / "calibration.json").write_bytes((mixtral[2] / "calibration.json").read_bytes())
        return original(*arguments, **shared)

    monkeypatch.setattr(module, "finish", finish)
    assert not calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24).created
    (tmp_path / "out" / "calibration.json").unlink()
    with pytest.raises(AlreadyExistsError, match="another calibration"):
        calibrate_here(mixtral[0], mixtral[1], tmp_path / "out", window=24, seed=1)


@pytest.mark.slow
def test_a_driver_that_is_killed(mixtral, tmp_path, ray_cluster):
    """The whole command with a Ray of its own; run again, it goes on and ends as if nothing had been."""
    out = tmp_path / "out"
    arguments = [*command(mixtral, out, "--workers", 1, "--max-memory", 1e-9)]
    run = [sys.executable, "-c", "from nwc_workflows.cli import main; main()", *map(str, arguments)]
    driver = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("partial-*"))) < 3:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=60)
    assert not (out / "calibration.json").exists()
    prepared = prepare(str(mixtral[0]), CalibrateOptions(mixtral[1], window=24))
    done = module.calibrate(prepared, open_store(out), max_memory=1)
    assert done.resumed >= 3
    assert {name: of for name, of in contents(out).items() if not name.startswith(".nwc-tmp-")} == contents(mixtral[2])


# --- plan


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 100])
def test_chunks_cover_the_items_in_order(count):
    chunks = plan.cut_items(count)
    assert [i for start, stop in chunks for i in range(start, stop)] == list(range(count))
    assert len(chunks) == min(count, plan.MAX_CHUNKS)
    assert all(start < stop for start, stop in chunks)


def test_a_job_asks_for_the_memory_of_its_group(mixtral, monkeypatch):
    seen = []
    original = module.measure_job
    monkeypatch.setattr(module, "measure_job", lambda *of: seen.append(original(*of)) or seen[-1])
    counted(monkeypatch, fail_at=0)
    with pytest.raises(FormatError):
        calibrate_here(mixtral[0], mixtral[1], mixtral[2].parent / "unused", window=24, max_memory=500_000)
    sums = [sum(plan.weight_nbytes(of) for of in job.args[0].values()) for job in seen]
    assert max(sums) <= 500_000
    assert all(job.nbytes > tasks.BASE_MEMORY + size for job, size in zip(seen, sums, strict=True))
