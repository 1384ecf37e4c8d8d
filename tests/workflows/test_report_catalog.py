"""`nwc report` of a catalog: what its records, timelines and indexes say, whatever state they are in."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from catalogs import SOUND, change_record, make_models, record_path, write_catalog
from checkpoints import contents, snapshot
from report_page import Page, check_sound

from nwc_core.errors import FormatError
from nwc_workflows.bench.memory_store import MemoryStore
from nwc_workflows.catalog.records import Records, new_status
from nwc_workflows.catalog.status import read_status
from nwc_workflows.catalog.trace import chrome_trace, read_trace
from nwc_workflows.report.catalog import gather_catalog
from nwc_workflows.report.content import Price
from nwc_workflows.report.page import render
from nwc_workflows.timeline import TaskSpan


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    """A folder with models, their file and results; one of them is a copy. Shared: not to be changed."""
    from nwc_workflows.cli import main

    folder = tmp_path_factory.mktemp("report")
    models = make_models(folder / "models")
    shutil.copytree(models / "a", models / "copy")
    path = write_catalog(folder / "c.yaml", models, folder / "out")
    text = path.read_text().replace("models:\n", f"models:\n- {{source: {models}/copy, base: a, bits: 15}}\n")
    path.write_text(text)
    with pytest.raises(SystemExit):
        main(["catalog", "run", str(path)])
    return folder


@pytest.fixture
def own(finished, tmp_path):
    """A copy of the results, and a file of the same models for it."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return write_catalog(tmp_path / "c.yaml", finished / "models", tmp_path / "out")


@pytest.fixture
def report(nwc, tmp_path):
    """report(what, options): the page that `nwc report` writes."""

    def run(what, *options):
        out = tmp_path / "catalog.html"
        code, _, err = nwc("report", what, "--out", out, "--force", *options)
        assert (code, err) == (0, "")
        page = Page(out.read_bytes())
        check_sound(page)
        return page

    return run


def states(page):
    return dict(zip(page.column("models", "Model"), page.column("models", "State"), strict=True))


def test_records_are_on_the_page(report, finished, nwc):
    before = snapshot(finished)
    page = report(finished / "out")
    assert snapshot(finished) == before
    assert states(page) == {**dict.fromkeys((*SOUND, "copy"), "done"), "bad": "failed"}
    status = json.loads(nwc("catalog", "status", finished / "out", "--output", "json")[1])
    for model in status["models"]:
        row = dict(
            zip(
                page.tables["models"][0],
                page.tables["models"][1:][list(states(page)).index(model["name"])],
                strict=True,
            )
        )
        if model["state"] == "done":
            assert row["Bits"] == f"{model['bits_per_weight']:.3f}"
            assert row["Times smaller"] == f"{model['source_bytes'] / model['artifact_bytes']:.2f}"
        assert row["Source"] == model["source"].removeprefix("file://")
    assert f"{status['source_bytes'] / status['artifact_bytes']:.2f}×" in page.said
    assert "5 models: 4 done, 1 failed." in page.said
    ((name, state, reason),) = page.tables["troubled"][1:]
    assert (name, state) == ("bad", "failed")
    assert "found bytes up to" in reason


def test_savings_are_those_of_catalog_status(report, finished, nwc):
    page = report(finished / "out")
    _, out, _ = nwc("catalog", "status", finished / "out", "--savings", "--output", "json")
    parts = {part["kind"]: part for part in json.loads(out)["savings"] if part["blocks"]}
    assert set(parts) == {"copies", "alone"}
    rows = {row[0]: row for row in page.tables["savings"][1:]}
    assert rows["as in a base or tensor before"][1] == f"{parts['copies']['blocks']}"
    ratio = parts["alone"]["source_nbytes"] / parts["alone"]["coded_nbytes"]
    assert rows["coded alone"][4] == f"{ratio:.2f}"


def test_the_timeline_has_a_bar_for_each_model_and_tasks_for_each_worker(report, finished):
    page = report(finished / "out")
    for name in (*SOUND, "copy"):
        assert any(title.startswith(f"{name}: done, 20") for title in page.titles)
        trace = read_trace((finished / "out/.nwc-catalog" / name / "timeline.json").read_bytes(), name)
        assert trace
        for task in trace:
            (title,) = [title for title in page.titles if title.startswith(f"{name}: {task.name}: ")]
            assert "read " in title
            assert f"{task.node}, {task.pid}" in page.said
    assert any(title.startswith("bad: failed, 20") for title in page.titles)


def test_the_file_knows_models_that_have_not_begun_and_the_price(report, own):
    shutil.rmtree(record_path(own.parent / "out", "bad").parent)
    page = report(own)
    assert states(page) == {**dict.fromkeys((*SOUND, "copy"), "done"), "bad": "not begun"}
    assert "at 1000 per GB and month" in page.said  # of the file, which does not say of what
    assert "at $2 per GB and month" in report(own, "--price", "2").said
    assert "at $0.023 per GB and month" in report(own.parent / "out").said


def test_every_state(report, own):
    results = own.parent / "out"
    change_record(results, "c", state="running", updated=time.time() - 3600, driver="head:<b>77</b>")
    (results / "a" / "manifest.json").unlink()
    record_path(results, "b/deep").write_text('{"format": 2}')
    page = report(results)
    assert states(page) == {"a": "gone", "b/deep": "unreadable", "bad": "failed", "c": "stopped", "copy": "done"}
    reasons = {row[0]: row[2] for row in page.tables["troubled"][1:]}
    assert reasons["a"] == "It was done, and its artifact is no longer at a."
    assert reasons["b/deep"] == "Its record cannot be read."
    assert reasons["c"].startswith("Last sign of life of head:<b>77</b>: 20")
    assert page.text == report(results).text


def test_what_is_damaged_does_not_take_the_rest_with_it(report, own):
    results = own.parent / "out"
    (results / ".nwc-catalog/a/timeline.json").write_text("{}")
    (index,) = (results / "c").glob("index-*")
    index.write_bytes(b"")
    page = report(results)
    assert ".nwc-catalog/a/timeline.json: found KeyError" in page.said
    assert "Not known, since an artifact cannot be opened" in page.said
    assert "savings" not in page.tables
    assert any(title.startswith("c: done") for title in page.titles)


def test_records_of_strangers_do_nothing():
    store = MemoryStore()
    evil = '<script>alert("x")</script>\u202e'
    status = new_status("m", "m", evil).changed(state="failed", reason=evil, asked={"preset": evil, "bits": evil})
    Records(store).write(status)
    Records(store).write(new_status("n", "n", "x").changed(started=1e300, updated=1e308, source_nbytes=10**30))
    Records(store).write_timeline("m", chrome_trace([span(0, key=evil, node=evil)]))
    page = Page(render("catalog", gather_catalog(store, read_status(store), Price())))
    check_sound(page)
    assert page.text.count("</script>") == 1
    assert "\u202e" not in page.text
    assert page.column("models", "Source")[0] == repr(evil)


def span(started, seconds=10.0, key="w", node="host", pid=7, resumed=False):
    return TaskSpan(key, node, pid, 1e9 + started, 1.0, 6.0, 2.0, seconds, 1000, 5, resumed)


def test_a_trace_is_read_back():
    spans = [span(0), span(3, key="v", node="other", pid=8), span(12, resumed=True)]
    tasks = read_trace(chrome_trace(spans), "t")
    assert [(t.name, t.node, t.pid, t.nbytes, t.resumed) for t in tasks] == [
        ("w", "host", 7, 1000, False),
        ("v", "other", 8, 1000, False),
        ("w", "host", 7, 1000, True),
    ]
    assert [t.started for t in tasks] == [1e9, 1e9 + 3, 1e9 + 12]
    assert tasks[0].stages == {"read": 1.0, "code": 6.0, "write": 2.0}
    assert tasks[0].seconds == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda trace: [],
        lambda trace: {**trace, "traceEvents": 7},
        lambda trace: {**trace, "otherData": {"started": -1}},
        lambda trace: {**trace, "otherData": {"started": True}},
        lambda trace: {**trace, "traceEvents": [{"ph": "X"}]},
        lambda trace: {**trace, "traceEvents": [{**event, "dur": 1e300} for event in trace["traceEvents"]]},
        lambda trace: {**trace, "traceEvents": [{**event, "pid": []} for event in trace["traceEvents"]]},
        lambda trace: {**trace, "traceEvents": trace["traceEvents"][1:]},  # a machine without a name
    ],
)
def test_another_trace_is_refused(change):
    with pytest.raises(FormatError, match="t: found"):
        read_trace(json.dumps(change(json.loads(chrome_trace([span(0)])))).encode(), "t")


def test_resumed_tasks_are_told(tmp_path):
    store = MemoryStore()
    records = Records(store)
    records.write(
        new_status("m", "m", "s").changed(state="done", started=1e9, updated=1e9 + 30, tasks=2, tasks_resumed=1)
    )
    store.put("m/manifest.json", b"")
    records.write_timeline("m", chrome_trace([span(0, resumed=True), span(12)]))
    page = Page(render("catalog", gather_catalog(store, read_status(store), Price())))
    assert "1 of them were done by an earlier run, which was stopped, and not done again" in page.said
    assert "2, 1 of them done by an earlier run that did not come to its end" in page.said
    assert "Not known, since an artifact cannot be opened" in page.said


def test_thousands_of_models_and_tasks_take_seconds():
    store = MemoryStore()
    records = Records(store)
    for i in range(1000):
        done = new_status(f"m{i}", f"m{i}", "s3://b/m").changed(state="failed", started=1e9 + i, updated=1e9 + i + 5)
        records.write(done)
        records.write_timeline(f"m{i}", chrome_trace([span(i + n / 10, 0.05, pid=n % 8) for n in range(10)]))
    started = time.perf_counter()
    data = render("catalog", gather_catalog(store, read_status(store), Price()))
    assert time.perf_counter() - started < 15
    assert len(data) < 5_000_000
    page = Page(data)
    assert any(title.endswith(" tasks") for title in page.titles)  # drawn together
    assert len(page.tables["models"]) == 1001


def test_a_catalog_has_no_original(nwc, finished, tmp_path):
    code, _, err = nwc("report", finished / "out", "--original", finished, "--out", tmp_path / "x.html")
    assert code == 2
    assert "--original: found it with the catalog" in err
    assert contents(tmp_path) == {}
