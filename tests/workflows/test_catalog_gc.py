"""Clearing up: what nobody needs goes, and nothing else ever does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time

import pytest
from checkpoints import contents, normal, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nwc_core.artifact.manifest import CarriedFile, Counts, Manifest
from nwc_core.artifact.objects import object_name, reference
from nwc_core.errors import UsageError
from nwc_core.store import Upload, open_store
from nwc_workflows.bench.memory_store import MemoryStore
from nwc_workflows.catalog import collect
from nwc_workflows.catalog.collect import delete, find
from nwc_workflows.catalog.records import Records, new_status

NOW, OLD = time.time(), time.time() - 10 * 86400
UNFINISHED = json.dumps({"format": 1, "nwc": "0", "job": {}, "source": "s3://b/m", "versions": {}}).encode()


def content(number):
    return f"content {number}".encode()


def name(kind, number):
    return object_name(kind, content(number))


def part(number):
    return f"part-{hashlib.sha256(content(number)).hexdigest()[:32]}.json"


def manifest(payloads, carried=()):
    refs = [reference("payload", content(number)) for number in payloads]
    return Manifest(
        codec=reference("codec", content(0)),
        index=reference("index", content(1)),
        payloads=refs,
        files=[CarriedFile(path=key, object=f"source/{key}", size=1, sha256="0" * 64) for key in carried],
        derived=[],
        weight_files=[],
        skipped=[],
        counts=Counts(tensors=0, weights=0, blocks=0, payload_bytes=sum(ref.size for ref in refs)),
        job={},
        fingerprint="0" * 64,
    )


def put(store, key, data=b"x", modified=OLD):
    store.put(key, data)
    store.modified[key] = modified


def put_artifact(store, place, payloads, carried=()):
    """An artifact with all that it needs; gives its keys."""
    made = manifest(payloads, carried)
    keys = [
        made.codec.object,
        made.index.object,
        *(ref.object for ref in made.payloads),
        *(f.object for f in made.files),
    ]
    for key in keys:
        put(store, f"{place}{key}")
    put(store, f"{place}manifest.json", made.to_bytes())
    return {f"{place}{key}" for key in [*keys, "manifest.json"]}


def collected(store, **options):
    """What a deletion takes."""
    before = set(store.objects)
    delete(store, find(store, **options), options.get("older_than", collect.DAY), lambda nbytes: None)
    return before - set(store.objects)


# --- cases


def test_an_abandoned_run_goes_as_a_whole():
    store = MemoryStore()
    ours = {"m/unfinished.json", f"m/{name('codec', 0)}", f"m/{name('payload', 5)}", f"m/{part(5)}"}
    for key in ours:
        put(store, key, UNFINISHED)
    put(store, "m/notes.txt")
    found = find(store)
    assert (found.objects, found.nbytes) == (4, 4 * len(UNFINISHED))
    assert set(store.objects) == {*ours, "m/notes.txt"}  # finding deletes nothing
    assert collected(store) == ours


def test_an_artifact_loses_only_what_it_does_not_name():
    store = MemoryStore()
    put_artifact(store, "m/", [5, 6], carried=[part(1), "unfinished.json"])
    extra = {f"m/{name('payload', 7)}", f"m/{name('index', 8)}", f"m/{part(2)}", "m/unfinished.json"}
    for key in extra:
        put(store, key, UNFINISHED)
    assert collected(store) == extra


def test_nothing_where_something_is_new():
    store = MemoryStore()
    put(store, "m/unfinished.json", UNFINISHED)
    put(store, f"m/{part(1)}", modified=NOW)
    put(store, "quiet/unfinished.json", UNFINISHED)
    found = find(store)
    assert [kept.place for kept in found.kept] == ["m"]
    assert collected(store) == {"quiet/unfinished.json"}
    assert collected(store, older_than=0.0) == {"m/unfinished.json", f"m/{part(1)}"}


def test_a_store_without_times_loses_nothing():
    store = MemoryStore()
    put(store, "m/unfinished.json", UNFINISHED, modified=0.0)
    assert collected(store, older_than=0.0) == set()


@pytest.mark.parametrize("data", [b"{}", b'{"format": "other"}', b"damaged"])
def test_a_manifest_that_cannot_be_read_protects_all_below_it(data):
    store = MemoryStore()
    put(store, "m/manifest.json", data)
    for key in ("m/", "m/below/"):
        put(store, f"{key}unfinished.json", UNFINISHED)
    assert len(find(store).kept) == 2
    assert collected(store) == set()


def test_somebody_elses_files_of_like_names():
    store = MemoryStore()
    put(store, "todo/unfinished.json", b'["milk"]')
    put(store, f"data/{name('index', 3)}")  # without a codec no run was there
    put(store, "data/part-00000.json")
    put(store, "data/payload-1.safetensors")
    assert find(store).rubbish == ()
    assert collected(store) == set()


def test_a_model_that_is_being_compressed():
    store = MemoryStore()
    put(store, "m/unfinished.json", UNFINISHED)
    Records(store).write(new_status("m", "m", "file:///m"))
    for options in ({}, {"older_than": 0.0}):
        assert [kept.reason for kept in find(store, **options).kept] == ["its model is being compressed"]
        assert collected(store, **options) == set()
    store.modified[".nwc-catalog/m/status.json"] = OLD  # it was killed
    assert collected(store) == {"m/unfinished.json"}


def test_a_run_that_commits_between_looking_and_deleting():
    store = MemoryStore()
    put(store, "m/unfinished.json", UNFINISHED)
    put(store, f"m/{name('codec', 0)}")
    found = find(store)
    needed = put_artifact(store, "m/", [5])
    assert delete(store, found, collect.DAY, lambda nbytes: None) == ()
    assert needed <= set(store.objects)


def test_what_appears_later_is_not_deleted_unseen():
    store = MemoryStore()
    put(store, "m/unfinished.json", UNFINISHED)
    found = find(store)
    put(store, f"m/{part(1)}")
    (place,) = delete(store, found, collect.DAY, lambda nbytes: None)
    assert [info.key for info in place.objects] == ["m/unfinished.json"]
    assert f"m/{part(1)}" in store.objects


def test_a_deletion_that_was_stopped_is_given_again(monkeypatch):
    store = MemoryStore()
    for key in ("unfinished.json", name("codec", 0), *(part(i) for i in range(5))):
        put(store, f"m/{key}", UNFINISHED)
    monkeypatch.setattr(collect, "_BATCH", 2)
    found = find(store)

    def stop(nbytes):
        if len(store.objects) <= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        delete(store, found, collect.DAY, stop)
    assert {"m/unfinished.json", f"m/{name('codec', 0)}"} <= set(store.objects)
    collected(store)
    assert not store.objects


def test_uploads_of_killed_writers():
    store = MemoryStore()
    old = Upload(f"m/{name('payload', 1)}", "1", OLD)
    new = Upload(f"n/{name('payload', 1)}", "2", NOW)
    foreign = Upload("m/video.mp4", "3", OLD)
    store.unfinished = [old, new, foreign]
    found = find(store)
    assert [place.uploads for place in found.rubbish] == [(old,)]
    delete(store, found, collect.DAY, lambda nbytes: None)
    assert store.unfinished == [new, foreign]


def test_a_folder_inside_an_artifact_is_refused(tmp_path):
    store = MemoryStore()
    put_artifact(store, "", [5], carried=[f"sub/{part(1)}", f"sub/{name('codec', 2)}"])
    for key, data in store.objects.items():
        open_store(tmp_path / "m").put(key, data)
    with pytest.raises(UsageError, match="found a folder inside the artifact file://"):
        find(open_store(tmp_path / "m" / "source" / "sub"), older_than=0.0)


# --- any set of objects

PLACES = ("", "a/", "a/source/", "a/source/b/", "b/", "b/c/")
NUMBERS = st.integers(0, 6)
RUBBISH = st.one_of(
    st.builds(part, NUMBERS),
    st.builds(name, st.sampled_from(["payload", "codec", "index"]), NUMBERS),
    st.just("unfinished.json"),
)
FOREIGN = st.sampled_from(["x.bin", "part-1.json", "config.json", "model.safetensors", "index-0.parquet", "source/x"])
CARRIED = st.one_of(st.builds(part, NUMBERS), st.builds(name, st.just("codec"), NUMBERS), st.just("b/unfinished.json"))


@given(
    artifacts=st.dictionaries(
        st.sampled_from(PLACES), st.tuples(st.sets(NUMBERS, max_size=4), st.sets(CARRIED, max_size=3)), max_size=3
    ),
    rubbish=st.sets(st.tuples(st.sampled_from(PLACES), RUBBISH), max_size=12),
    foreign=st.sets(st.tuples(st.sampled_from(PLACES), FOREIGN), max_size=6),
    fresh=st.sets(st.tuples(st.sampled_from(PLACES), RUBBISH), max_size=2),
    damaged=st.sets(st.sampled_from(PLACES), max_size=1),
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_never_what_is_needed_new_or_not_ours(artifacts, rubbish, foreign, fresh, damaged):
    store = MemoryStore()
    for place, key in rubbish:
        put(store, place + key, UNFINISHED)
    for place, key in foreign:
        put(store, place + key)
    needed = set()
    for place, (payloads, carried) in artifacts.items():
        needed |= put_artifact(store, place, sorted(payloads), sorted(carried))
    for place in damaged - artifacts.keys():
        put(store, f"{place}manifest.json", b"damaged")
    for place, key in fresh:
        put(store, place + key, store.objects.get(place + key, UNFINISHED), modified=NOW)
    before = dict(store.objects)
    gone = collected(store)
    assert not gone & needed
    assert not gone & {place + key for place, key in foreign}
    assert not any(key.startswith(place) for key in gone for place in damaged - artifacts.keys())
    new = {place for place in PLACES for p, _ in fresh if p.startswith(place)}
    assert not {key for key in gone if key.rpartition("/")[0] in {place.rstrip("/") for place in new}}
    # And what is left is nothing that could go.
    assert collected(store) == set()
    for place in artifacts:  # extras in quiet artifacts are gone
        if place not in new and not any(place.startswith(other) for other in damaged - artifacts.keys()):
            kept = {key for key in store.objects if key.rpartition("/")[0] == place.rstrip("/")}
            assert not {key for key in kept - needed if (place, key.removeprefix(place)) in rubbish}
    assert all(store.objects[key] == before[key] for key in store.objects)


# --- the command, after a run that really was killed


def test_the_command_on_an_unfinished_artifact(nwc, tmp_path, ray_cluster, codec, small_tasks):
    from nwc_workflows.compress import compress
    from nwc_workflows.plan import CompressOptions, make_plan

    big = save(tmp_path / "big" / "model.safetensors", {f"w{i}": normal(128, 256, seed=i) for i in range(4)})
    plan = make_plan(big.parent, codec, CompressOptions(bits=8))

    def stop(nbytes):
        raise KeyboardInterrupt

    out = tmp_path / "out" / "big"
    with pytest.raises(KeyboardInterrupt):
        compress(plan, open_store(out), on_progress=stop)
    time.sleep(1)  # the tasks that were handed out
    (out / ".nwc-tmp-0123456789abcdef0123456789abcdef").write_bytes(b"half")
    other = shutil.copytree(out, tmp_path / "out" / "other")
    code, printed, err = nwc("catalog", "gc", tmp_path / "out", "--older-than", "1", "--delete")
    assert code == 0
    assert "left alone: big: something was written there lately" in err
    assert "0 objects (0 B) and 0 unfinished uploads deleted" in printed
    for path in [*out.iterdir(), *other.iterdir()]:
        os.utime(path, (OLD, OLD))
    before = contents(tmp_path / "out")
    code, printed, _ = nwc("catalog", "gc", tmp_path / "out", "--output", "json")
    assert code == 0
    data = json.loads(printed)
    assert contents(tmp_path / "out") == before
    assert (data["deleted"], data["uploads"], data["objects"]) == (False, 2, len(before) - 2)
    assert data["bytes"] == sum(len(content) for key, content in before.items() if "tmp" not in key)
    assert nwc("catalog", "gc", out, "--delete")[0] == 0  # an artifact's own place
    assert contents(out) == {}
    assert contents(other) != {}
    assert compress(plan, open_store(other)).created
    assert nwc("verify", other, "--source", big.parent)[0] == 0
