"""A run that was stopped goes on where it was, and never mixes with what another would make."""

import json

import pytest
from checkpoints import BITS, contents, has_manifest, make_model

from nwc_core.errors import AlreadyExistsError, StoreError
from nwc_core.store import open_store
from nwc_workflows import compress as module
from nwc_workflows.compress import compress
from nwc_workflows.parts import PART_PREFIX
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.resume import UNFINISHED_KEY

OPTIONS = CompressOptions(bits=BITS)
pytestmark = pytest.mark.usefixtures("serial")


@pytest.fixture
def source(tmp_path):
    return make_model(tmp_path / "model")


@pytest.fixture
def stopped(source, codec, tmp_path):
    """Stops a run after so many tasks; returns how many the plan has, and the destination."""

    def stop(done, options=OPTIONS, calibration=None):
        plan = make_plan(source, codec, options, calibration)
        seen = []

        def advance(nbytes):
            seen.append(nbytes)
            if len(seen) == done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compress(plan, open_store(tmp_path / "out"), on_progress=advance)
        return len(plan.tasks), tmp_path / "out"

    return stop


def resumed(result):
    return [span.resumed for span in result.timeline]


@pytest.mark.parametrize("done", [1, 2, 4])
def test_no_finished_task_is_done_again(stopped, source, codec, artifact, done):
    count, out = stopped(done)
    assert not has_manifest(out)
    assert len(list(out.glob(f"{PART_PREFIX}*"))) == done
    progress = []
    plan = make_plan(source, codec, OPTIONS)
    result = compress(plan, open_store(out), on_progress=progress.append)
    assert sum(resumed(result)) == done < count == len(result.timeline)
    assert sum(progress) == sum(task.nbytes for task in plan.tasks)
    assert contents(out) == contents(artifact)  # and nothing of how it came about


def test_a_run_stopped_behind_its_commit_is_tidied_up(stopped, source, codec, artifact):
    _, out = stopped(2)
    kept = {path.name: path.read_bytes() for path in [*out.glob(f"{PART_PREFIX}*"), out / UNFINISHED_KEY]}
    compress(make_plan(source, codec, OPTIONS), open_store(out))
    for name, data in kept.items():
        (out / name).write_bytes(data)
    assert not compress(make_plan(source, codec, OPTIONS), open_store(out)).created
    assert contents(out) == contents(artifact)


@pytest.mark.parametrize(
    "damage", ["part is gone", "part is cut off", "payload is gone", "payload is cut off", "other inputs"]
)
def test_what_is_damaged_is_done_again(stopped, source, codec, artifact, damage):
    _, out = stopped(2)
    part = min(out.glob(f"{PART_PREFIX}*"))
    payload = out / json.loads(part.read_bytes())["coded"]["payload"]["object"]
    if damage == "other inputs":
        part.write_bytes(part.read_bytes().replace(b'"inputs":"', b'"inputs":"0'))
    elif damage.endswith("gone"):
        (part if "part" in damage else payload).unlink()
    else:
        path = part if "part" in damage else payload
        path.write_bytes(path.read_bytes()[:-9])
    result = compress(make_plan(source, codec, OPTIONS), open_store(out))
    assert sum(resumed(result)) == 1
    assert contents(out) == contents(artifact)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": BITS + 1}, f"bits: there {BITS}, here {BITS + 1}"),
        ({"bits": BITS, "preset": "fast"}, "preset: there default, here fast"),
        ({"max_bytes": 1 << 30}, f"bits: there {BITS}, here None; max_bytes: there None, here {1 << 30}"),
    ],
)
def test_other_options_do_not_mix(stopped, source, codec, options, words):
    _, out = stopped(2)
    before = contents(out)
    with pytest.raises(AlreadyExistsError) as caught:
        compress(make_plan(source, codec, CompressOptions(**options)), open_store(out))
    assert words in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    assert contents(out) == before


def test_another_source_does_not_mix(stopped, source, codec):
    _, out = stopped(2)
    before = contents(out)
    path = min(source.glob("*.safetensors"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(AlreadyExistsError, match=f"version of {path.name}: there .*, here .*"):
        compress(make_plan(source, codec, OPTIONS), open_store(out))
    assert contents(out) == before


def test_a_record_of_something_else(source, codec, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / UNFINISHED_KEY).write_text("{}")
    with pytest.raises(AlreadyExistsError, match="its record is damaged"):
        compress(make_plan(source, codec, OPTIONS), open_store(tmp_path / "out"))


def test_stages_are_timed(source, codec, tmp_path):
    result = compress(make_plan(source, codec, OPTIONS), open_store(tmp_path / "out"))
    assert result.timeline
    for span in result.timeline:
        stages = span.read_seconds, span.code_seconds, span.write_seconds
        assert all(seconds > 0 for seconds in stages)
        assert sum(stages) <= span.seconds


def test_a_payload_that_somebody_deleted_is_noticed_before_the_commit(source, codec, tmp_path, monkeypatch, artifact):
    out, plan = tmp_path / "out", make_plan(source, codec, OPTIONS)

    def late(checkpoint):
        next(out.glob("payload-*")).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(module, "check_unchanged", late)
        with pytest.raises(StoreError, match=r"payload-\S+: is gone: somebody deleted or changed it"):
            compress(plan, open_store(out))
    assert not has_manifest(out)
    assert compress(plan, open_store(out)).created
    assert contents(out) == contents(artifact)


def test_what_a_run_leaves_that_commits_second_is_tidied_up(stopped, source, codec, artifact, monkeypatch):
    """The first to commit has deleted the claim already when the other's last tasks end."""
    _, out = stopped(2)
    commit, plan = module.commit, make_plan(source, codec, OPTIONS)
    late = {path: path.read_bytes() for path in out.glob(f"{PART_PREFIX}*")}

    def second(store, manifest):
        monkeypatch.setattr(module, "commit", commit)
        assert compress(plan, store).created
        assert not (out / UNFINISHED_KEY).exists()
        for path, data in late.items():
            path.write_bytes(data)
        return commit(store, manifest)

    monkeypatch.setattr(module, "commit", second)
    assert not compress(plan, open_store(out)).created
    assert contents(out) == contents(artifact)
