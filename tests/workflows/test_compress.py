"""Compressing: equal input gives equal bytes, and a destination is never harmed."""

import json
import shutil

import pytest
import torch
from checkpoints import (
    BITS,
    CONFIG,
    SHARDS,
    all_tensors,
    contents,
    lossy_tensors,
    make_model,
    normal,
    same_bits,
    save,
    snapshot,
)

import nwc_core as nwc
from nwc_core.errors import AlreadyExistsError, FormatError, IntegrityError, NwcError, UsageError
from nwc_core.lossless import encode_lossless
from nwc_core.store import open_store
from nwc_workflows import compress as module
from nwc_workflows import plan as planning
from nwc_workflows.blocks import cut_tensor
from nwc_workflows.carried import FOR_TRANSFORMERS
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.resume import UNFINISHED_KEY
from nwc_workflows.sources import open_checkpoint
from nwc_workflows.verify import verify


def run(source, destination, codec, *, workers=None, **options):
    plan = make_plan(source, codec, CompressOptions(**{"bits": BITS, **options}))
    return compress(plan, open_store(destination), workers=workers)


@pytest.fixture
def own_model(tmp_path):
    """A model of one's own to change."""
    return make_model(tmp_path / "model")


@pytest.fixture
def no_ray(monkeypatch):
    """Whatever is refused is refused before any work."""

    def work(*arguments, **options):
        raise AssertionError("work was started")

    monkeypatch.setattr(module, "cluster", work)


# --- equal bytes


@pytest.mark.parametrize("workers", [1, 2])
def test_every_run_gives_the_same_bytes_whatever_the_workers(artifact, model, codec, tmp_path, small_tasks, workers):
    run(model, tmp_path / "out", codec, workers=workers)
    assert contents(tmp_path / "out") == contents(artifact)


def test_where_the_source_lies_does_not_matter(artifact, model, codec, tmp_path, small_tasks):
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    run(moved, tmp_path / "out", codec)
    assert contents(tmp_path / "out") == contents(artifact)


def test_left_overs_of_an_unfinished_run_are_used_and_stay(artifact, model, codec, tmp_path, small_tasks):
    shutil.copytree(artifact, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "payload-0123.safetensors").write_bytes(b"of a run with other options")
    before = snapshot(tmp_path / "out")
    assert run(model, tmp_path / "out", codec).created
    after = snapshot(tmp_path / "out")
    assert after.pop("manifest.json")[1] == (artifact / "manifest.json").read_bytes()
    assert after == before


def test_the_result_counts_bytes_on_disk(artifact, model, codec, tmp_path, small_tasks):
    done = run(model, tmp_path / "out", codec)
    files = contents(tmp_path / "out")
    ours = [name for name in files if name.startswith(("payload-", "index-", "codec-", "manifest"))]
    assert done.created
    assert done.weight_nbytes == sum(len(files[name]) for name in ours)
    assert done.carried_nbytes == sum(len(files[name]) for name in files if name not in ours)
    assert done.bits_per_weight == 8 * done.weight_nbytes / done.manifest.counts.weights
    assert done.source_nbytes == sum((model / name).stat().st_size for name in SHARDS)


def test_progress_adds_up_to_the_source(model, codec, tmp_path, ray_cluster, small_tasks):
    plan = make_plan(model, codec, CompressOptions(bits=BITS))
    steps = []
    compress(plan, open_store(tmp_path / "out"), on_progress=steps.append)
    assert len(steps) == len(plan.tasks) > 1
    assert sum(steps) == sum(tensor.nbytes for tensor in plan.checkpoint.tensors)
    again = []
    compress(plan, open_store(tmp_path / "out"), on_progress=again.append)  # hashes the source: takes time too
    assert sum(again) == sum(steps)


# --- what an artifact holds


def test_every_tensor_is_there_with_its_type_and_shape(artifact):
    with nwc.open(artifact) as opened:
        assert opened.keys() == list(all_tensors())
        for name, wanted in all_tensors().items():
            found = opened.get_tensor(name)
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            if name in lossy_tensors():
                error = (found.double() - wanted.double()).square().mean() / wanted.double().square().mean()
                assert 0 < error < 0.02, name
            else:
                assert same_bits(found, wanted), name


def test_files_lie_where_readers_look(artifact, model):
    """config.json is what transformers needs at the root and what it was below source/."""
    config = json.loads((artifact / "config.json").read_text())
    assert config == {**CONFIG, **FOR_TRANSFORMERS}
    for name, place in {
        "config.json": "source/config.json",
        "tokenizer.json": "tokenizer.json",
        "vocab.txt": "vocab.txt",
        "README.md": "source/README.md",
        "1_Pooling/config.json": "source/1_Pooling/config.json",
        "model.safetensors.index.json": "source/model.safetensors.index.json",
    }.items():
        assert (artifact / place).read_bytes() == (model / name).read_bytes()
    assert not list(artifact.rglob("pytorch_model.bin"))
    with nwc.open(artifact) as opened:
        assert [skipped.path for skipped in opened.manifest.skipped] == ["pytorch_model.bin"]


@pytest.mark.parametrize("limit", [2000, 7000])
def test_blocks_are_coded_one_by_one(codec, tmp_path, ray_cluster, monkeypatch, limit):
    """Tensors cut into many blocks: what comes back is each block coded by itself, side by side."""
    tensors = {**lossy_tensors(), "leftover": normal(7, 700), "ids": torch.arange(3000), "row": normal(2, 4000)}
    path = save(tmp_path / "m.safetensors", tensors)
    monkeypatch.setattr(planning, "cut_tensor", lambda tensor, lossless: cut_tensor(tensor, limit, lossless=lossless))
    plan = make_plan(path, codec, CompressOptions(bits=16.0))
    compress(plan, open_store(tmp_path / "out"))
    with nwc.open(tmp_path / "out") as opened:
        assert verify(opened, open_checkpoint(path)) == []
        for source in plan.checkpoint.tensors:
            flat, decoded = tensors[source.name].reshape(-1), opened.get_tensor(source.name).reshape(-1)
            rows, blocks = opened.index.blocks(source.name), cut_tensor(source, limit)
            assert len(rows) == len(blocks) >= source.numel / limit
            for row, block in zip(rows, blocks, strict=True):
                part = flat[block.start : block.stop].reshape(block.shape)
                alone = codec.encode(part, plan.bits) if block.lossy else encode_lossless(part)
                assert opened.read_block(row) == alone.to_bytes()
                assert same_bits(decoded[block.start : block.stop], codec.decode(alone).reshape(-1))
        if limit == 2000:  # the last block has fewer weights than the lossy coder takes
            assert [row.coder == "nwc" for row in opened.index.blocks("leftover")] == [True, True, True, False]


def test_a_float64_tensor_at_a_high_rate_verifies(codec, tmp_path, ray_cluster):
    """Errors are counted in float32; compared in float64 they would differ in the fifth digit."""
    path = save(tmp_path / "m.safetensors", {"w": normal(300, 400, dtype=torch.float64)})
    run(path, tmp_path / "out", codec, bits=24.0)
    with nwc.open(tmp_path / "out") as opened:
        assert next(iter(opened.index)).coder == "nwc"
        assert verify(opened, open_checkpoint(path)) == []


# --- a destination that is taken


def test_again_does_nothing(artifact, model, codec, small_tasks, no_ray):
    before = snapshot(artifact)
    done = run(model, artifact, codec)
    assert not done.created
    assert done.manifest.fingerprint == nwc.open(artifact).manifest.fingerprint
    assert snapshot(artifact) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bits": 12.0}, f"bits: there {BITS}, here 12.0"),
        ({"preset": "fast"}, "preset: there default, here fast"),
        ({"bits": 12.0, "preset": "fast"}, f"bits: there {BITS}, here 12.0; preset: there default, here fast"),
    ],
)
def test_other_options_touch_nothing(artifact, model, codec, small_tasks, no_ray, options, reason):
    before = snapshot(artifact)
    with pytest.raises(AlreadyExistsError) as caught:
        run(model, artifact, codec, **options)
    assert f"manifest.json: the destination holds a different artifact ({reason}); nothing was changed" in str(
        caught.value
    )
    assert snapshot(artifact) == before


def test_another_codec_touches_nothing(artifact, model, codec, small_tasks, no_ray):
    before = snapshot(artifact)
    other = type(codec).of(codec.coder, {"trained": "elsewhere"})
    with pytest.raises(AlreadyExistsError, match=f"codec: there {codec.digest}, here {other.digest}"):
        run(model, artifact, other)
    assert snapshot(artifact) == before


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [*SHARDS, "tokenizer.json", "config.json"])
def test_other_content_under_the_same_names_is_another_artifact(artifact, own_model, codec, small_tasks, no_ray, name):
    """The same headers and sizes: only content tells."""
    if name == "config.json":
        (own_model / name).write_text(json.dumps(CONFIG).replace("384", "385"))
    else:
        flip_last_byte(own_model / name)
    before = snapshot(artifact)
    with pytest.raises(AlreadyExistsError, match="same options, other weights or files"):
        run(own_model, artifact, codec)
    assert snapshot(artifact) == before


def test_a_renamed_tensor_is_another_artifact(artifact, own_model, codec, small_tasks, no_ray):
    for path in (own_model / SHARDS[1], own_model / "model.safetensors.index.json"):
        path.write_bytes(path.read_bytes().replace(b'"experts"', b'"experta"'))
    with pytest.raises(AlreadyExistsError, match="same options, other weights or files"):
        run(own_model, artifact, codec)


@pytest.mark.parametrize("kind", ["payload", "codec", "index", "tokenizer"])
def test_again_on_an_artifact_that_lost_an_object_says_so(own_artifact, model, codec, small_tasks, no_ray, kind):
    lost = next(own_artifact.glob(f"{kind}*"))
    lost.unlink()
    with pytest.raises(IntegrityError, match=rf"{lost.name}: found nothing; wanted \d+ bytes; .* delete it"):
        run(model, own_artifact, codec)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "source/README.md"])
def test_somebodys_file_in_the_way_is_found_before_any_work(model, codec, tmp_path, no_ray, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = snapshot(tmp_path / "out")
    with pytest.raises(AlreadyExistsError, match=f"{name}: the destination holds another file of this name; nothing"):
        run(model, tmp_path / "out", codec)
    assert snapshot(tmp_path / "out") == before


def test_files_of_other_names_do_not_matter_and_stay(artifact, model, codec, tmp_path, ray_cluster, small_tasks):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    run(model, tmp_path / "out", codec)
    assert contents(tmp_path / "out") == {**contents(artifact), "notes.txt": b"mine"}


def test_something_else_called_manifest_json_stays(model, codec, tmp_path, no_ray):
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    before = snapshot(tmp_path)
    with pytest.raises(FormatError, match=r"manifest\.json: key format: found None; wanted 'nwc-artifact'"):
        run(model, tmp_path, codec)
    assert snapshot(tmp_path) == before


def test_the_faster_of_two_runs_wins_and_the_other_says_so(model, codec, tmp_path, ray_cluster, monkeypatch):
    """The other artifact appears while this run is under way, and the claim that should have kept it away is gone."""
    commit = module.commit

    def late(store, manifest):
        monkeypatch.setattr(module, "commit", commit)
        store.delete(UNFINISHED_KEY)
        run(model, tmp_path / "out", codec, bits=14.0)
        return commit(store, manifest)

    monkeypatch.setattr(module, "commit", late)
    with pytest.raises(AlreadyExistsError, match="holds a different artifact"):
        run(model, tmp_path / "out", codec)
    with nwc.open(tmp_path / "out") as opened:
        assert opened.manifest.job["bits"] == 14.0
        assert verify(opened, open_checkpoint(model)) == []


# --- source and destination


@pytest.mark.parametrize("inside", ["", "out", "a/b"])
def test_a_destination_inside_the_source_is_refused(own_model, codec, no_ray, inside):
    """The next run would take the artifact for a part of the model."""
    before = snapshot(own_model)
    with pytest.raises(UsageError, match=r"destination: found .*, inside the source"):
        run(own_model, own_model / inside, codec)
    assert snapshot(own_model) == before


def test_a_folder_beside_the_source_with_its_name_in_front_is_not_inside(own_model, codec, ray_cluster):
    assert run(own_model, f"{own_model}-compressed", codec).created


def test_one_file_may_be_compressed_into_a_folder_beside_it(codec, tmp_path, ray_cluster):
    path = save(tmp_path / "m.safetensors", lossy_tensors())
    before = path.read_bytes()
    assert run(path, tmp_path / "out", codec).created
    assert not run(path, tmp_path / "out", codec).created
    assert path.read_bytes() == before


def test_an_artifact_that_no_reader_would_open_is_not_committed(model, codec, tmp_path, ray_cluster, monkeypatch):
    write_index = module.write_index
    monkeypatch.setattr(module, "write_index", lambda rows: write_index(rows[1:]))
    with pytest.raises(NwcError, match="the new index: "):
        run(model, tmp_path / "out", codec)
    assert not (tmp_path / "out" / "manifest.json").exists()
