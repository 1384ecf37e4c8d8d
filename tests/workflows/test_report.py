"""Reports: what stands in them, that nothing in a name can become code, and that they are written like all that nwc writes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from catalogs import make_models, write_catalog
from checkpoints import normal, save

import nwc_core
from nwc_core.store import open_store
from nwc_workflows.bench.memory_store import MemoryStore
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.report.artifact import artifact_page
from nwc_workflows.report.layers import layer_of
from nwc_workflows.report.page import Table, render
from nwc_workflows.report.times import _Task, _without_pauses, times

HOSTILE = "</title></td><script>alert(1)</script>\"' onmouseover=x &amp;"


class _Parsed(HTMLParser):
    """Elements and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def layered(ray_cluster, codec, tmp_path_factory):
    """The artifact of a small network with layers, and a tensor with a hostile name. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("layered")
    layers = {f"layers.{i}.{kind}.weight": normal(96, 128, seed=i) for i in range(3) for kind in ("up", "down")}
    tensors = {**layers, "norm.weight": normal(96, seed=7), HOSTILE: normal(64, 64, seed=8)}
    save(folder / "model" / "model.safetensors", tensors)
    (folder / "model" / "notes.txt").write_text("kept")
    (folder / "model" / "other.bin").write_bytes(b"x" * 10)
    compress(make_plan(folder / "model", codec, CompressOptions(bits=9)), open_store(folder / "model.nwc"))
    return folder / "model.nwc"


def test_a_report_on_an_artifact(layered, nwc, tmp_path):
    code, out, err = nwc("report", layered, "--out", tmp_path / "report.html", "--price", 1000, "--output", "json")
    assert code == 0, err
    page = (tmp_path / "report.html").read_text()
    assert json.loads(out)["bytes"] == len(page.encode())
    text = _Parsed(page).text
    with nwc_core.open(layered) as artifact:
        sections = [section.title for section in artifact_page(artifact, 0.023).sections]
        for row in artifact.index:
            assert " ".join(row.tensor.split()) in text
        bits = 8 * sum(info.size for info in artifact.store.list() if not info.key.startswith("source/"))
        assert f"{bits / artifact.manifest.counts.weights:.3f}" in text
        assert artifact.manifest.fingerprint in text
    assert sections[:3] == ["Rate and distortion", "Bits per weight, layer by layer", "Error, layer by layer"]
    assert "notes.txt" in text


def test_errors_are_those_that_verify_measures(layered):
    with nwc_core.open(layered) as artifact:
        page = artifact_page(artifact, 0.023)
        table = next(section for section in page.sections if isinstance(section, Table))
        said = {row[0].text: row[3].sort for row in table.rows}
        for row in artifact.index:
            if row.mse > 0 and row.tensor in said:
                power = float(artifact.get_tensor(row.tensor).double().square().mean())
                assert 10 ** (said[row.tensor] / 10) == pytest.approx(row.mse / power, rel=1e-6)


def test_from_the_index_alone_no_payload_is_read(layered, nwc, tmp_path):
    copied = tmp_path / "index-only.nwc"
    copied.mkdir()
    for path in layered.iterdir():
        if path.is_file() and not path.name.startswith("payload-"):
            (copied / path.name).write_bytes(path.read_bytes())
    code, _, err = nwc("report", copied, "--index-only", "--out", tmp_path / "report.html")
    assert code == 0, err
    assert "rms error" in (tmp_path / "report.html").read_text()
    assert nwc("report", copied, "--out", tmp_path / "other.html")[0] == 1
    assert not (tmp_path / "other.html").exists()


def test_names_stay_text_and_nothing_is_loaded(layered):
    with nwc_core.open(layered) as artifact:
        page = render(artifact_page(artifact, 0.023))
    parsed = _Parsed(page)
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert scripts == [{}]  # ours, whose digest the policy names
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    places = [
        value for _, attributes in parsed.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert places and all(value.startswith("#") for value in places)
    assert "url(http" not in page and "@import" not in page
    policy = next(a["content"] for tag, a in parsed.elements if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")


def test_the_same_artifact_gives_the_same_bytes(layered):
    with nwc_core.open(layered) as artifact:
        assert render(artifact_page(artifact, 0.023)) == render(artifact_page(artifact, 0.023))


def test_a_report_is_replaced_only_if_that_is_wanted(layered, nwc, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    code, out, err = nwc("report", layered, "--out", tmp_path / "report.html")
    assert (code, out) == (1, "")
    assert "already exists" in err and "--force" in err
    assert (tmp_path / "report.html").read_text() == "mine"
    assert nwc("report", layered, "--out", tmp_path / "report.html", "--force")[0] == 0
    assert (tmp_path / "report.html").read_text() != "mine"


def test_a_report_on_a_catalog(nwc, tmp_path, ray_cluster):
    file = write_catalog(tmp_path / "catalog.yaml", make_models(tmp_path / "models"), tmp_path / "out")
    assert nwc("catalog", "run", file)[0] == 3
    for what in (file, tmp_path / "out"):
        code, _, err = nwc("report", what, "--out", tmp_path / "report.html", "--force")
        assert code == 0, err
        text = _Parsed((tmp_path / "report.html").read_text()).text
        assert "4 models; 3 done, 1 failed" in text
        assert "What is not done, and why" in text and "What made it smaller" in text and "When models ran" in text
        assert re.search(r"bad failed \S*.*(cut off|truncated|wanted)", text)
    assert "1,000 a GB" in text or "1000 a GB" in text or "a month at" not in text


def test_long_pauses_are_left_out_of_a_time_line():
    tasks = [_Task("a", "node", 1, 1e9 + start, 2.0, False) for start in (0.0, 1.0, 500.0, 503.0)]
    moved, cut = _without_pauses(tasks)
    assert [task.start for task in moved] == [0.0, 1.0, 6.0, 9.0]
    assert cut == 494.0


def test_a_time_line_that_is_damaged_is_left_out():
    for text in (
        b"[]",
        b"{}",
        b'{"traceEvents": [{}], "otherData": {"started": 1}}',
        b'{"traceEvents": 1, "otherData": {}}',
        b"{",
    ):
        store = MemoryStore()
        store.put(".nwc-catalog/a/timeline.json", text)
        assert times(store, ["a", "b"]) == []


def test_what_is_nothing_is_said(nwc, tmp_path):
    code, out, err = nwc("report", tmp_path, "--out", tmp_path / "report.html")
    assert (code, out) == (1, "")
    assert "neither an artifact nor the results of a catalog nor of nwc bench" in err
    assert not (tmp_path / "report.html").exists()


def test_benchmarks_are_stored_and_shown_again(nwc, tmp_path):
    made = nwc(
        "bench",
        "codec",
        "--source",
        "gaussian",
        "--size",
        "64x256",
        "--bits",
        3,
        "--bits",
        4,
        "--out",
        tmp_path / "results",
    )
    assert made[0] == 0, made[2]
    stored = json.loads((tmp_path / "results" / "codec.json").read_text())
    assert stored["benchmark"] == "codec" and stored["seed"] is not None
    assert stored["environment"]["packages"]["torch"] and stored["environment"]["cpu"]
    assert stored["arguments"]["rates"] == [3.0, 4.0]
    code, out, err = nwc("bench", "report", tmp_path / "results", "--out", tmp_path / "report.html")
    assert code == 0, err
    assert made[1].strip() in out  # the very tables
    text = _Parsed((tmp_path / "report.html").read_text()).text
    for row in next(part for part in stored["report"] if "rows" in part)["rows"]:
        assert " ".join(filter(None, row)) in text
    assert "Shannon's bound" in text
    again = nwc("report", tmp_path / "results" / "codec.json", "--out", tmp_path / "report.html", "--force")
    assert again[0] == 0


@pytest.mark.parametrize(
    "change", [{"report": None}, {"report": [{"rows": [["a"]], "headers": []}]}, {"sources": [{}]}]
)
def test_damaged_results_are_named(nwc, tmp_path, change):
    sound = {"benchmark": "codec", "report": [{"text": "x"}], "sources": [], "summary": [], "checkpoints": []}
    (tmp_path / "codec.json").write_text(json.dumps({**sound, **change}))
    code, out, err = nwc("report", tmp_path / "codec.json", "--out", tmp_path / "report.html")
    assert (code, out) == (1, "")
    assert "codec.json" in err and "wanted what nwc bench --out writes" in err


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.12.mlp.up.weight", ("model.layers", 12, "mlp.up.weight")),
        ("blocks.3", ("blocks", 3, "")),
        ("h.0.attn.1.weight", ("h", 0, "attn.1.weight")),
        ("norm.weight", None),
        ("layer1.weight", None),
    ],
)
def test_the_layer_of_a_name(name, place):
    assert layer_of(name) == place
