"""The dry run: what it promises is what a run does, and it does nothing itself."""

import math

import pytest
import torch
from checkpoints import BITS, all_tensors, contents, lossless_tensors, lossy_tensors, normal, save, snapshot

import nwc_core as nwc
from nwc_core.errors import FormatError, UsageError
from nwc_core.safetensors_header import build_header
from nwc_core.store import open_store
from nwc_workflows.commands.plan import describe
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan


@pytest.mark.parametrize("bits", [0, -1, 0.2, math.nan, math.inf, -math.inf])
def test_absurd_rates_are_refused(bits):
    with pytest.raises(UsageError, match=f"bits: found {bits}; wanted at least 0.25"):
        CompressOptions(bits=bits)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="preset: found 'best'; wanted one of scalar, fast, default, max"):
        CompressOptions(preset="best")


def test_a_whole_number_of_bits_is_the_same_job_as_a_float(model, codec):
    assert repr(make_plan(model, codec, CompressOptions(bits=10)).job["bits"]) == "10.0"


def test_the_dry_run_says_what_compress_does(model, codec, artifact, small_tasks):
    plan = make_plan(model, codec, CompressOptions(bits=BITS))
    with nwc.open(artifact) as made:
        rows = list(made.index)
        assert [(b.tensor.name, b.start, b.stop) for b in plan.blocks] == [(r.tensor, r.start, r.stop) for r in rows]
        assert len(plan.tasks) == len(made.manifest.payloads) > 2
        # The plan reads no weights, so what only weights tell, it cannot know.
        told_by_values = {"nan", "infinite", "constant", "zeros"}
        for block, row in zip(plan.blocks, rows, strict=True):
            assert block.lossy == (row.coder == "nwc") or row.tensor in told_by_values
        assert plan.weights == made.manifest.counts.weights == sum(t.numel() for t in all_tensors().values())
        assert plan.job == made.manifest.job
        assert plan.source_nbytes == sum(file.size for file in made.manifest.weight_files)
        assert plan.carried_nbytes == sum(file.size for file in made.manifest.files)


def test_the_description_is_the_plan(model, codec, small_tasks):
    plan = make_plan(model, codec, CompressOptions(bits=BITS))
    data = describe(plan)
    assert [t["name"] for t in data["tensors"]] == list(all_tensors())
    assert {t["name"] for t in data["tensors"] if t["coder"] == "nwc"} >= set(lossy_tensors())
    lossless = {t["name"] for t in data["tensors"] if t["coder"] == "lossless"}
    assert lossless == set(lossless_tensors()) - {"nan", "infinite", "constant", "zeros"}
    assert len(data["tasks"]) == len(plan.tasks)
    assert sum(task["bytes"] for task in data["tasks"]) == sum(t.nbytes for t in all_tensors().values())
    assert data["worker_memory_bytes"] == max(task["memory_bytes"] for task in data["tasks"])
    assert [skipped["path"] for skipped in data["skipped"]] == ["pytorch_model.bin"]


def test_planning_writes_nothing(model, nwc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = snapshot(model)
    assert nwc("plan", model, "--bits", BITS)[0] == 0
    assert snapshot(model) == before
    assert list(tmp_path.iterdir()) == []


def test_planning_reads_no_weights(tmp_path, codec):
    """A sparse file of 4 GB: its header is all that there is."""
    header = build_header([("w", "F32", (1 << 15, 1 << 15))])
    path = tmp_path / "m.safetensors"
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + (1 << 32))
    plan = make_plan(path, codec, CompressOptions(bits=4.0))
    assert plan.weights == 1 << 30
    assert plan.worker_memory < 1.2e9
    assert plan.predicted_nbytes == pytest.approx(1 << 29, rel=0.001)


def test_a_rate_that_the_lossless_part_alone_exceeds_is_refused_with_the_least_possible(model, codec):
    with pytest.raises(
        UsageError, match=r"bits: found 1\.0; wanted at least (\d+\.\d+): the codec, the index"
    ) as caught:
        make_plan(model, codec, CompressOptions(bits=1.0))
    least = float(str(caught.value).split("at least ")[1].split(":")[0])
    assert least > 1.0
    assert make_plan(model, codec, CompressOptions(bits=least)).bits >= 0.25
    with pytest.raises(UsageError):
        make_plan(model, codec, CompressOptions(bits=least - 0.01))


def test_a_tiny_checkpoint_has_a_rate_too(tmp_path, codec, ray_cluster):
    """It is mostly codec, index and manifest: the least rate may be above the weights' own."""
    path = save(tmp_path / "m.safetensors", {"w": normal(64, 64)})
    with pytest.raises(UsageError, match="wanted at least") as caught:
        make_plan(path, codec, CompressOptions())
    least = float(str(caught.value).split("at least ")[1].split(":")[0])
    assert least > 16
    plan = make_plan(path, codec, CompressOptions(bits=least + 4))
    done = compress(plan, open_store(tmp_path / "out"))
    assert done.bits_per_weight == pytest.approx(least + 4, rel=0.03)


@pytest.mark.parametrize("tensors", [{}, {"ids": torch.arange(100)}, {"empty": torch.empty(0)}], ids=list)
def test_a_checkpoint_without_lossy_tensors_needs_no_rate(tmp_path, codec, ray_cluster, tensors):
    path = save(tmp_path / "m.safetensors", tensors)
    plan = make_plan(path, codec, CompressOptions(bits=1))
    done = compress(plan, open_store(tmp_path / "out"))
    assert done.manifest.counts.tensors == len(tensors)
    assert nwc.load(tmp_path / "out").keys() == tensors.keys()
    assert describe(plan)["predicted_bytes"] == pytest.approx(done.weight_nbytes, abs=400)  # of the manifest


def test_sizes_and_rates_come_true_on_a_real_model(minilm_run):
    plan, done = minilm_run
    assert done.bits_per_weight == pytest.approx(plan.options.bits, abs=0.03)
    assert plan.predicted_nbytes == pytest.approx(done.weight_nbytes, rel=0.03)


@pytest.mark.parametrize(("bits", "preset"), [(3.0, "scalar"), (4.5, "fast"), (6.0, "scalar")])
def test_the_rate_asked_for_is_met(tmp_path, codec, ray_cluster, bits, preset):
    """Six million weights with everything that a model has: matrices of several types, norms, integers."""
    tensors = {
        "embedding": normal(8000, 256, seed=1),
        **{f"layer.{i}.weight": normal(768, 768, dtype=torch.bfloat16, seed=2 + i) for i in range(4)},
        "experts": normal(4, 256, 512, dtype=torch.float16, seed=9),
        "conv": normal(128, 64, 3, 3, seed=10),
        **{f"norm.{i}": normal(768, seed=20 + i) for i in range(8)},
        "position_ids": torch.arange(512).reshape(1, 512),
    }
    plan = make_plan(save(tmp_path / "m.safetensors", tensors), codec, CompressOptions(bits=bits, preset=preset))
    done = compress(plan, open_store(tmp_path / "out"))
    on_disk = sum(len(data) for data in contents(tmp_path / "out").values())
    assert done.weight_nbytes == on_disk
    assert done.bits_per_weight == pytest.approx(8 * on_disk / plan.weights)
    assert done.bits_per_weight == pytest.approx(bits, abs=0.03)
    assert plan.predicted_nbytes == pytest.approx(on_disk, rel=0.01)


@pytest.mark.parametrize("shape", [(1,) * 65, (0, 1 << 49), (0, 1 << 63)])
def test_a_shape_that_no_artifact_holds_is_refused_before_any_work(tmp_path, codec, shape):
    path = tmp_path / "m.safetensors"
    path.write_bytes(build_header([("odd", "U8", shape)]) + bytes(math.prod(shape)))
    with pytest.raises(
        FormatError, match=r"m\.safetensors: tensor 'odd': found shape .*; wanted at most 64 dimensions"
    ):
        make_plan(path, codec, CompressOptions())


def test_a_file_name_that_no_artifact_holds_is_refused_before_any_work(tmp_path, codec):
    save(tmp_path / "model.safetensors", {"w": normal(4)})
    (tmp_path / "back\\slash.txt").write_text("x")
    with pytest.raises(FormatError, match=r"back\\\\slash\.txt.*wanted one that must hold no backslash"):
        make_plan(tmp_path, codec, CompressOptions())


def test_what_a_plan_depends_on(model, codec, small_tasks):
    """The cuts follow from the checkpoint alone: neither options nor machines may move them."""
    a = make_plan(model, codec, CompressOptions(bits=BITS))
    b = make_plan(model, codec, CompressOptions(bits=BITS + 2, preset="max"))
    assert a.tasks == b.tasks
    assert a.bits < b.bits
