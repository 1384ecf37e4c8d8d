"""Compressing to a quality: what is committed was measured and found good enough; what is not leaves no trace."""

import hashlib
import json
import sys

import numpy as np
import pytest
from calibration_models import calibrate_here
from checkpoints import contents, snapshot
from evaluation_models import FACTORY, make_bert, make_cnn, make_llama, text

import nwc_core as nwc_library
from nwc_core.store import open_store
from nwc_workflows import blocks, scratch, trials
from nwc_workflows.evaluate import EvaluateOptions, prepare
from nwc_workflows.evaluation.stored import open_model

pytest.importorskip("transformers")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_folder_for_trials(tmp_path, monkeypatch):
    """Where trials lie, so that a test can see that nothing of them stays."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(scratch, "TemporaryDirectory", lambda prefix: _Temporary(prefix=prefix, dir=place))
    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 13)
    yield place
    assert list(place.iterdir()) == []


_Temporary = scratch.TemporaryDirectory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(text to calibrate on, other text)."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "calibration.txt").write_text(text(400))
    (folder / "quality.txt").write_text(text(500, seed=1))
    return folder / "calibration.txt", folder / "quality.txt"


@pytest.fixture(scope="module")
def llama(data, tmp_path_factory):
    """(model, its calibration). Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("llama")
    calibrate_here(make_llama(folder / "model"), data[0], folder / "calibration", window=32)
    return folder / "model", folder / "calibration"


@pytest.fixture
def compress(llama, data, nwc, tmp_path, ray_cluster):
    """Runs `nwc compress` of the language model: (exit code, the JSON, stderr)."""

    def run(*options, calibration=llama[1], destination=tmp_path / "out"):
        weighing = ["--calibration", calibration] if calibration else []
        measuring = ["--quality-data", data[1], "--window", 32]
        arguments = [*options, *weighing, *measuring, "--output", "json"]
        code, out, err = nwc("compress", llama[0], destination, *arguments)
        return code, json.loads(out) if out else None, err

    return run


def measured(model, artifact, quality_data, figure, **options):
    """As `nwc evaluate` measures it."""
    found = prepare(str(model), [str(artifact)], EvaluateOptions(quality_data, **options)).run()
    return found.compressed[0].figures[figure].value


# --- a quality


@pytest.mark.parametrize(
    ("quality", "calibrated"), [("kl=0.2", True), ("kl=0.02", True), ("kl=0.1", False), ("top1-drop=20", True)]
)
def test_the_smallest_that_is_good_enough_is_committed(compress, llama, data, tmp_path, quality, calibrated):
    code, found, err = compress("--quality", quality, calibration=llama[1] if calibrated else None)
    assert code == 0, err
    metric, value = quality.split("=")
    figure = {"kl": "kl", "top1-drop": "top1_agreement"}[metric]
    here = measured(llama[0], tmp_path / "out", data[1], figure, window=32)
    here = 100 * (1 - here) if metric == "top1-drop" else here
    assert here <= float(value)
    good = [trial for trial in found["trials"] if trial["good_enough"]]
    chosen = min(good, key=lambda trial: trial["weight_bytes"])
    assert chosen["weight_bytes"] == found["weight_bytes"]
    assert chosen["measured"]["value"] == pytest.approx(here)
    assert chosen["measured"]["low"] < here < chosen["measured"]["high"]
    assert 1 <= len(found["trials"]) <= 8
    assert all(trial["weight_bytes"] < found["weight_bytes"] for trial in found["trials"] if not trial["good_enough"])
    if metric == "kl":
        assert here > 0.7 * float(value)  # so small a model is coarse
    assert err.count("trial: ") == len(found["trials"])
    job = nwc_library.open(tmp_path / "out").manifest.job
    assert (job["quality"], job["quality_kind"], job["quality_window"]) == (f"{metric}={float(value)}", "language", 32)
    assert job["quality_sha256"] == hashlib.sha256(data[1].read_bytes()).hexdigest()
    assert found["bits_per_weight"] == pytest.approx(job["bits"], abs=0.1)


def test_again_nothing_is_tried(compress, monkeypatch, tmp_path):
    assert compress("--quality", "kl=0.2")[0] == 0
    before = snapshot(tmp_path / "out")
    monkeypatch.setattr(trials, "cluster", None)
    code, found, _ = compress("--quality", "kl=0.2")
    assert (code, found["created"], "trials" in found) == (0, False, False)
    assert snapshot(tmp_path / "out") == before
    code, _, err = compress("--quality", "kl=0.1")
    assert code == 1
    assert "different artifact (quality: there kl=0.2, here kl=0.1)" in err


def test_the_search_is_the_same_whatever_the_workers(compress, tmp_path):
    for workers in (1, 2):
        code, _, err = compress("--quality", "kl=0.1", "--workers", workers, destination=tmp_path / f"{workers}")
        assert code == 0, err
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_what_no_rate_meets_says_what_was_reached(compress, tmp_path, monkeypatch):
    """At the highest rates weights are stored bit for bit, which meets anything."""
    monkeypatch.setattr(trials, "RATES", trials.RATES[:8])
    monkeypatch.setattr(trials._Trials, "_first_bits", lambda self: 1.0)
    code, _, err = compress("--quality", "kl=1e-12")
    assert code == 1
    assert "quality: found kl" in err
    assert "at the highest rate tried" in err
    assert "wanted at most 1e-12; nothing was written" in err
    assert not (tmp_path / "out").exists()


# --- a gate


def test_a_gate_lets_a_good_artifact_through(compress, tmp_path):
    """It is the artifact that the same options make without it, but for the record of the gate."""
    code, found, err = compress("--bits", 12, "--gate", "kl=5")
    assert code == 0, err
    (trial,) = found["trials"]
    assert trial["good_enough"]
    job = nwc_library.open(tmp_path / "out").manifest.job
    assert (job["bits"], job["gate"]) == (12.0, "kl=5.0")
    assert compress("--bits", 12, "--gate", "kl=5")[1]["created"] is False


@pytest.mark.parametrize("size", [("--bits", 12), ("--max-bytes", 95_000)])
def test_a_gate_refuses_and_leaves_nothing(compress, tmp_path, size):
    code, _, err = compress(*size, "--gate", "kl=1e-5")
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("nwc: error: ")]
    assert line.startswith("nwc: error: gate: found kl ")
    assert line.endswith("bits per weight; wanted at most 1e-05; nothing was written")
    assert not (tmp_path / "out").exists()


def test_a_gate_goes_with_most_bytes(compress, tmp_path):
    assert compress("--max-bytes", 95_000, "--gate", "kl=5")[0] == 0
    assert 0.995 * 95_000 <= sum(map(len, contents(tmp_path / "out").values())) <= 95_000


# --- where trials lie


def test_a_scratch_place_is_used_and_emptied(compress, tmp_path, monkeypatch):
    seen = []
    publish = trials.publish

    def watch(made, plan, destination):
        seen.append(made.store.uri)
        return publish(made, plan, destination)

    monkeypatch.setattr(trials, "publish", watch)
    assert compress("--bits", 12, "--gate", "kl=5", "--scratch", tmp_path / "scratch")[0] == 0
    assert seen[0].startswith(f"file://{tmp_path}/scratch/nwc-")
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []


def test_a_cluster_needs_a_scratch_place(compress):
    code, _, err = compress("--bits", 12, "--gate", "kl=5", "--address", "10.0.0.1:6379")
    assert code == 2
    assert "scratch: found none; wanted a place for unfinished artifacts that all machines of the cluster reach" in err


def test_an_object_that_was_damaged_on_trial_is_not_committed(compress, tmp_path, monkeypatch):
    measure = trials.Meter.measure

    def damage(meter, where, advance):
        found = measure(meter, where, advance)
        store = open_store(where)
        key = next(info.key for info in store.list("payload-"))
        store.put(key, store.get(key)[:-1] + b"?")
        return found

    monkeypatch.setattr(trials.Meter, "measure", damage)
    code, _, err = compress("--bits", 12, "--gate", "kl=5")
    assert code == 1
    assert "payload-" in err
    assert "found SHA-256" in err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_destination_that_is_taken_is_known_before_any_trial(compress, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.json").write_text("mine")
    monkeypatch.setattr(trials, "cluster", None)
    code, _, err = compress("--quality", "kl=0.2")
    assert code == 1
    assert "holds another file of this name" in err


# --- other kinds of models


def test_an_encoder(data, nwc, tmp_path, ray_cluster):
    model = make_bert(tmp_path / "bert")
    calibrate_here(model, data[0], tmp_path / "calibration", window=32)
    arguments = ["--calibration", tmp_path / "calibration", "--quality-data", data[1], "--output", "json"]
    code, _, err = nwc("compress", model, tmp_path / "out", "--quality", "rel-error=0.02", *arguments)
    assert code == 0, err
    here = 10 ** (measured(model, tmp_path / "out", data[1], "error_db") / 10)
    assert 0.7 * 0.02 < here <= 0.02
    code, _, err = nwc("compress", model, tmp_path / "other", "--quality", "kl=0.02", *arguments)
    assert code == 2
    assert "kl: no metric of a model of the kind 'encoder'; wanted rel-error" in err


@pytest.mark.parametrize("quality", ["kl=0.001", "top1-drop=4"])
def test_a_classifier(nwc, tmp_path, ray_cluster, monkeypatch, quality):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factory", raising=False)
    (tmp_path / "own_factory.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8), rng.integers(0, 4, 50)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    arguments = ["--quality-data", "images.npz", "--factory", "own_factory:make", "--output", "json"]
    code, out, err = nwc("compress", make_cnn(tmp_path / "cnn"), tmp_path / "out", "--quality", quality, *arguments)
    assert code == 0, err
    good = [trial for trial in json.loads(out)["trials"] if trial["good_enough"]]
    assert min(trial["measured"]["value"] for trial in good) <= float(quality.split("=")[1])


# --- what makes no sense


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "mse=1"], "--quality: metric: found 'mse'; wanted one of kl, rel-error, top1-drop"),
        (["--gate", "kl"], "--gate: found 'kl'; wanted METRIC=VALUE"),
        (
            ["--quality", "rel-error=0.1"],
            "rel-error: no metric of a model of the kind 'language'; wanted kl or top1-drop",
        ),
        (["--quality", "kl=1", "--gate", "kl=1"], "quality and gate: found both; wanted one of them"),
        (["--quality", "kl=1", "--max-bytes", "1000"], "quality and max_bytes: found both; wanted one of them"),
        (["--quality", "kl=1", "--bits", "9"], "bits and quality: found both; wanted one of them"),
        (["--bits", "12"], "--quality-data: found it without --quality and --gate"),
    ],
)
def test_options_that_make_no_sense_together(compress, tmp_path, options, message):
    code, _, err = compress(*options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_no_data_to_measure_on(llama, nwc, tmp_path):
    code, _, err = nwc("compress", llama[0], tmp_path / "out", "--quality", "kl=1")
    assert code == 2
    assert "kl=1.0: found no --quality-data; wanted data to measure it on" in err


def test_the_calibrations_own_data_is_refused(llama, data, nwc, tmp_path):
    arguments = ["--calibration", llama[1], "--quality-data", data[0]]
    code, _, err = nwc("compress", llama[0], tmp_path / "out", "--quality", "kl=1", *arguments)
    assert code == 2
    assert "found the data that the model was calibrated on" in err
    assert not (tmp_path / "out").exists()


def test_the_faster_of_two_runs_wins(compress, llama, tmp_path, monkeypatch):
    """Another artifact appears while trials are under way."""
    commit = scratch.commit

    def late(store, manifest):
        other = manifest.model_copy(update={"fingerprint": "0" * 64})
        store.create("manifest.json", other.to_bytes())
        return commit(store, manifest)

    monkeypatch.setattr(scratch, "commit", late)
    code, _, err = compress("--bits", 12, "--gate", "kl=5")
    assert code == 1
    assert "the destination holds a different artifact" in err
    assert open_model(str(tmp_path / "out")).fingerprint == "0" * 64
