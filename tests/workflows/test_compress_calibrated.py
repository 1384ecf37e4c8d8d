"""Compressing with a calibration: what is committed does not depend on who did the work, and goes by what was measured."""

import json
import shutil

import pytest
import torch
from calibration_models import calibrate_here
from checkpoints import contents, snapshot
from evaluation_models import change_weights, make_llama, text

import nwc_core as nwc_library
from nwc_core.errors import AlreadyExistsError, FormatError, NwcError
from nwc_core.store import open_store
from nwc_workflows import blocks
from nwc_workflows import plan as planning
from nwc_workflows.allocate import allocate
from nwc_workflows.blocks import cut_tensor
from nwc_workflows.calibration.reading import Calibration
from nwc_workflows.calibration.source import state_digest
from nwc_workflows.calibration_match import model_digest
from nwc_workflows.compress import compress, measure, work
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.sources import open_checkpoint

pytest.importorskip("transformers")

BITS = 6.6  # a model this small is half index, norms and codec; its matrices get about 3 bits


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """(model, its calibration, one of inputs alone). Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("llama")
    model = make_llama(folder / "model")
    (folder / "text.txt").write_text(text(400))
    calibrate_here(model, folder / "text.txt", folder / "calibration", window=32)
    calibrate_here(model, folder / "text.txt", folder / "inputs", window=32, input_only=True)
    return model, folder / "calibration", folder / "inputs"


@pytest.fixture(autouse=True)
def several_tasks(monkeypatch):
    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 13)


def run(llama, destination, codec, calibration=1, workers=None, **options):
    opened = Calibration.open(llama[calibration]) if calibration else None
    size = {} if "max_bytes" in options else {"bits": BITS}
    plan = make_plan(llama[0], codec, CompressOptions(**size, **options), opened)
    return compress(plan, open_store(destination), workers=workers)


def rates(folder):
    """Bits per weight of each tensor that was coded lossily."""
    with nwc_library.open(folder) as opened:
        return {row.tensor: row.bits_per_weight for row in opened.index if row.coder == "nwc"}


@pytest.fixture(scope="module")
def compressed(llama, codec, ray_cluster, tmp_path_factory):
    """The artifact. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("compressed") / "model.nwc"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 13)
        run(llama, folder, codec, workers=2)
    return folder


# --- what is made


def test_one_worker_gives_the_same_bytes_as_two(llama, codec, compressed, tmp_path, ray_cluster):
    done = run(llama, tmp_path / "out", codec, workers=1)
    assert len(done.manifest.payloads) > 3
    assert contents(tmp_path / "out") == contents(compressed)


def test_rates_differ_and_their_total_is_what_was_asked_for(llama, codec, compressed):
    plan = make_plan(llama[0], codec, CompressOptions(bits=BITS), Calibration.open(llama[1]))
    measured = measure(plan, workers=2)
    found, wanted = rates(compressed), allocate(measured, plan.bits).rates
    lossy = [block for block in plan.blocks if block.lossy]
    assert list(found) == [block.tensor.name for block in lossy]
    assert max(found.values()) - min(found.values()) > 1
    assert list(found.values()) == pytest.approx(wanted, abs=0.25)  # 4,096 weights meet no rate better
    assert sum(rate * block.numel for rate, block in zip(wanted, lossy, strict=True)) == pytest.approx(
        plan.bits * plan.lossy_weights
    )


def test_the_output_is_nearer_to_the_original_than_without(llama, codec, compressed, tmp_path, ray_cluster):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(llama, tmp_path / "plain", codec, calibration=0)
    model = AutoModelForCausalLM.from_pretrained(llama[0], dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(llama[0])(text(250, seed=9))["input_ids"]])

    def logits(state):
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        with torch.no_grad():
            return model(ids).logits.log_softmax(-1)

    original = logits(nwc_library.load(tmp_path / "plain") | _state(llama[0]))
    kl = {
        folder: float((original.exp() * (original - logits(nwc_library.load(folder)))).sum(-1).mean())
        for folder in (compressed, tmp_path / "plain")
    }
    assert kl[compressed] < 0.6 * kl[tmp_path / "plain"]


def _state(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_inputs_alone_shape_errors_but_move_no_bits(llama, codec, tmp_path, ray_cluster):
    done = run(llama, tmp_path / "out", codec, calibration=2)
    assert done.allocation is None
    found = rates(tmp_path / "out").values()
    assert max(found) - min(found) < 0.3
    assert done.manifest.fingerprint != run(llama, tmp_path / "plain", codec, calibration=0).manifest.fingerprint
    assert contents(tmp_path / "out").keys() != contents(tmp_path / "plain").keys()


def test_rows_of_a_tensor_are_coded_with_their_part_of_the_statistics(llama, codec, tmp_path, ray_cluster, monkeypatch):
    """Cut into blocks, every block has a rate of its own, and the loss is about what it was."""
    monkeypatch.setattr(planning, "cut_tensor", lambda tensor, lossless: cut_tensor(tensor, 2048, lossless=lossless))
    opened = Calibration.open(llama[1])
    plan = make_plan(llama[0], codec, CompressOptions(bits=BITS + 1), opened)
    assert sum(block.lossy for block in plan.blocks) > 30
    compress(plan, open_store(tmp_path / "out"))
    lossy = [block for block in plan.blocks if block.lossy]
    of_block = dict(
        zip(((b.tensor.name, b.number) for b in lossy), allocate(measure(plan), plan.bits).rates, strict=True)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    statistics, weight = opened.get(name), _state(llama[0])[name]
    with nwc_library.open(tmp_path / "out") as artifact:
        rows = artifact.index.blocks(name)
        assert len(rows) == 3
        for number, (row, part) in enumerate(zip(rows, weight.split(32), strict=True)):
            of_rows = statistics.rows[:, 32 * number : 32 * (number + 1)]
            alone = codec.encode(
                part,
                of_block[name, number],
                hessian=torch.from_numpy(statistics.hessian.copy()),
                rows=torch.from_numpy(of_rows.clip(0.1 * of_rows.mean())),
            )
            assert artifact.read_block(row) == alone.to_bytes()
    assert len({round(of_block[name, number], 3) for number in range(3)}) == 3


def test_progress_adds_up_to_both_passes(llama, codec, tmp_path, ray_cluster):
    plan = make_plan(llama[0], codec, CompressOptions(bits=BITS), Calibration.open(llama[1]))
    steps = []
    compress(plan, open_store(tmp_path / "out"), on_progress=steps.append)
    assert sum(steps) == work(plan) == 2 * sum(tensor.nbytes for tensor in plan.checkpoint.tensors)


def test_the_published_codec_has_no_curves_to_allocate_by(llama):
    plan = make_plan(
        llama[0], nwc_library.Codec.load("nwc-paper"), CompressOptions(bits=600), Calibration.open(llama[1])
    )
    assert not plan.allocates


def test_the_plan_knows_what_statistics_take(llama, codec):
    plan = make_plan(llama[0], codec, CompressOptions(bits=BITS), Calibration.open(llama[1]))
    plain = make_plan(llama[0], codec, CompressOptions(bits=BITS))
    assert plan.worker_memory - plain.worker_memory > 44 * 96 * 96


# --- a destination that is taken


def test_again_does_nothing(llama, codec, compressed):
    before = snapshot(compressed)
    assert not run(llama, compressed, codec).created
    assert snapshot(compressed) == before


@pytest.mark.parametrize("calibration", [0, 2])
def test_another_calibration_is_another_artifact(llama, codec, compressed, calibration):
    before = snapshot(compressed)
    with pytest.raises(AlreadyExistsError, match=r"different artifact \(calibration: there [0-9a-f]{64}, here "):
        run(llama, compressed, codec, calibration=calibration)
    assert snapshot(compressed) == before


# --- another model's calibration


@pytest.fixture
def own(llama, tmp_path):
    """(a copy of the model to change, its calibration)."""
    return shutil.copytree(llama[0], tmp_path / "own"), llama[1]


def test_a_fine_tune_is_another_model(own, codec, tmp_path):
    change_weights(own[0], lambda tensors: tensors["lm_head.weight"].mul_(1.01))
    with pytest.raises(FormatError, match="statistics of a model with other weights"):
        run(own, tmp_path / "out", codec)
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_is_missing_is_named(own, codec, tmp_path):
    change_weights(own[0], lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        FormatError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight': found statistics of a tensor that"
    ):
        run(own, tmp_path / "out", codec)


def test_a_tensor_of_another_shape_is_named(own, codec, tmp_path):
    def cut(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:60].clone()

    change_weights(own[0], cut)
    with pytest.raises(FormatError, match=r"'lm_head\.weight': found shape \[64, 64\]; wanted \[60, 64\]"):
        run(own, tmp_path / "out", codec)


def test_a_model_is_known_by_the_same_digest_here_as_in_its_calibration(model):
    """Of every type and shape that a checkpoint holds."""
    checkpoint = open_checkpoint(model)
    from nwc_workflows.evaluation.stored import open_model

    assert model_digest(checkpoint) == state_digest(open_model(str(model)).state())


def test_damaged_statistics_are_an_error_that_names_the_tensor(llama, codec, tmp_path, ray_cluster):
    folder = shutil.copytree(llama[1], tmp_path / "damaged")
    (path,) = folder.glob("statistics-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(NwcError, match=r"statistics-.*: weight '.*': found SHA-256"):
        run((llama[0], folder), tmp_path / "out", codec)
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- most bytes


def size_of(folder):
    return sum(map(len, contents(folder).values()))


@pytest.mark.parametrize("calibration", [0, 1])
@pytest.mark.parametrize("limit", [41_000, 55_333, 72_001])
def test_an_artifact_of_at_most_so_many_bytes(llama, codec, tmp_path, ray_cluster, calibration, limit):
    done = run(llama, tmp_path / "out", codec, calibration=calibration, max_bytes=limit)
    assert 0.995 * limit <= size_of(tmp_path / "out") <= limit
    assert done.manifest.job["max_bytes"] == limit
    assert "bits" not in done.manifest.job
    assert not run(llama, tmp_path / "out", codec, calibration=calibration, max_bytes=limit).created


def test_a_size_is_met_by_coding_a_few_tasks_again(llama, codec, tmp_path, ray_cluster, monkeypatch):
    """A plan whose idea of the fixed bytes is wrong, either way; what was replaced is gone, whoever works."""
    for off, workers in ((-2500, 1), (-2500, 2), (2500, 2)):
        monkeypatch.setattr(planning, "fixed_nbytes", lambda *_, off=off: 12_000 + off)
        run(llama, tmp_path / f"{off}-{workers}", codec, max_bytes=52_000, workers=workers)
    assert contents(tmp_path / "-2500-1") == contents(tmp_path / "-2500-2")
    for folder in (tmp_path / "-2500-1", tmp_path / "2500-2"):
        assert 51_740 <= size_of(folder) <= 52_000
        with nwc_library.open(folder) as opened:
            payloads = {ref.object for ref in opened.manifest.payloads}
        assert {path.name for path in folder.glob("payload-*")} == payloads


def test_a_size_that_cannot_be_met_leaves_no_artifact(llama, codec, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setattr(planning, "fixed_nbytes", lambda *_: 2_000)
    with pytest.raises(NwcError, match=r"max_bytes: found an artifact of \d+ bytes at the least; wanted at most 10000"):
        run(llama, tmp_path / "out", codec, max_bytes=10_000)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_too_few_bytes_are_refused_with_the_least_possible(llama, codec, nwc, tmp_path):
    code, _, err = nwc("compress", llama[0], tmp_path / "out", "--max-bytes", "5000")
    assert code == 2
    least = int(err.split("wanted at least ")[1].split(":")[0])
    assert 10_000 < least < 25_000
    assert make_plan(llama[0], codec, CompressOptions(max_bytes=least)).bits == pytest.approx(0.25, abs=0.01)


# --- the commands


def test_the_dry_run_says_what_each_tensor_gets(llama, nwc, codec, compressed, ray_cluster):
    code, out, err = nwc("plan", llama[0], "--bits", BITS, "--calibration", llama[1], "--output", "json")
    assert code == 0, err
    data = json.loads(out)
    planned = {tensor["name"]: tensor["bits"] for tensor in data["tensors"] if tensor["coder"] == "nwc"}
    assert planned == pytest.approx(rates(compressed), abs=0.25)
    assert data["predicted_loss"] > 0
    assert data["without_statistics"] == []
    code, out, _ = nwc("plan", llama[0], "--bits", BITS, "--calibration", llama[1])
    assert code == 0
    assert out.splitlines()[0].split() == ["tensor", "dtype", "shape", "coder", "blocks", "bits"]
    assert "predicted loss of the output: " in out


def test_the_dry_run_predicts_what_a_quality_takes(llama, nwc, ray_cluster):
    bits = []
    for quality in ("kl=0.5", "kl=0.05"):
        code, out, err = nwc("plan", llama[0], "--quality", quality, "--calibration", llama[1], "--output", "json")
        assert code == 0, err
        data = json.loads(out)
        assert data["predicted_loss"] == pytest.approx(float(quality[3:]), rel=0.05)
        bits.append(data["bits_of_lossy_tensors"])
    assert 1.2 < bits[1] - bits[0] < 2.2  # a tenth of the loss: 1.66 bits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "kl=1"], "--quality: found kl=1.0 without a --calibration that knows gradients"),
        (["--quality", "rel-error=1", "--calibration", 1], "--quality: found rel-error=1.0; wanted kl=VALUE"),
        (["--quality", "kl=1", "--calibration", 2], "without a --calibration that knows gradients"),
        (["--bits", "9", "--max-bytes", "90000"], "bits and max_bytes: found both; wanted one of them"),
        (["--quality", "kl=1", "--max-bytes", "90000"], "quality and max_bytes: found both"),
    ],
)
def test_options_that_make_no_plan(llama, nwc, options, message):
    arguments = [llama[option] if isinstance(option, int) else option for option in options]
    code, out, err = nwc("plan", llama[0], *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_tensors_without_statistics_are_counted_and_get_the_average(llama, nwc, codec, tmp_path, ray_cluster):
    own = shutil.copytree(llama[0], tmp_path / "own")
    change_weights(own, lambda tensors: tensors.update(unused=torch.randn(64, 64)))
    calibration = shutil.copytree(llama[1], tmp_path / "calibration")
    _rewrite_record(calibration, model_digest(open_checkpoint(own)))
    code, out, err = nwc(
        "compress", own, tmp_path / "out", "--bits", BITS, "--calibration", calibration, "--output", "json"
    )
    assert code == 0, err
    data = json.loads(out)
    assert data["without_statistics"] == ["unused"]
    assert "no statistics of 1 tensors (unused): they get the average rate" in err
    assert rates(tmp_path / "out")["unused"] == pytest.approx(data["bits_of_lossy_tensors"], abs=0.1)


def _rewrite_record(folder, model):
    record = Calibration.open(folder).record
    (folder / "calibration.json").write_bytes(record.model_copy(update={"model": model}).to_bytes())


def test_a_calibration_that_is_not_there(llama, failing, tmp_path):
    line = failing("compress", llama[0], tmp_path / "out", "--calibration", tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere/calibration.json: no such object" in line


def test_an_artifact_and_a_calibration_do_not_share_a_place(nwc, model, artifact, tmp_path):
    (tmp_path / "calibration.json").write_text("{}")
    code, _, err = nwc("compress", model, tmp_path, "--bits", 12)
    assert code == 1
    assert "calibration.json: the destination holds a calibration; nothing was changed" in err
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
