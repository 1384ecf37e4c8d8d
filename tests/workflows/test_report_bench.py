"""`nwc report` of benchmarks: their own files read back, every figure on the page, files of others refused."""

from __future__ import annotations

import json
import re

import pytest
from bench_samples import checkpoint, samples
from report_page import Page, check_sound

EVIL = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory):
    """What `nwc bench codec --out` writes."""
    from nwc_workflows.cli import main

    folder = tmp_path_factory.mktemp("bench")
    model = checkpoint(folder, "model", a=samples("gaussian", 64, 96), b=samples("laplace", 96, 64, seed=1))
    options = ["--source", "gaussian", "--size", "64x64", "--preset", "fast", "--bits", "3", "--bits", "4"]
    codecs = ["--codec", "default", "--codec", "ideal-scalar"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "codec", str(model), *codecs, *options, "--out", str(folder / "out")])
    assert not ended.value.code
    return folder / "out"


def figure(value):
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value}


def models_data(**changes):
    """As `nwc bench models` writes it."""
    points = [
        {
            "method": method,
            "setting": f"{bits} bits",
            "bytes": 1000 * bits,
            "bits_per_weight": bits + 0.01,
            "coded_tensors": 4,
            "coded_weights": 7000,
            "coded_bytes": 900 * bits,
            "coded_bits_per_weight": bits - 0.1,
            "seconds": 12.5,
            "versions": {},
            "figures": {"kl": figure(scale * 4.0**-bits), "top1_agreement": figure(0.8), "perplexity": None},
        }
        for method, scale in (("nwc", 1.0), ("rtn", 4.0), (EVIL, 8.0))
        for bits in (3, 4)
    ]
    return {
        "task": "language",
        "data": {"tokens": 4096, "window": 256, "sha256": "ab" * 32},
        "original": {"model": f"file:///models/{EVIL}", "bytes": 16000},
        "environment": {"cpu": "a processor", "cores": 2, "packages": {"nwc": "1"}},
        "scope": "whole",
        "scope_weights": 8000,
        "scope_bytes": 16000,
        "points": points,
        "left_out": [{"name": "gptq", "setting": "4 bits", "reason": f"not installed {EVIL}"}],
        **changes,
    }


@pytest.fixture
def report(nwc, tmp_path):
    """report(what): the page that `nwc report` writes."""

    def run(what):
        out = tmp_path / "bench.html"
        code, _, err = nwc("report", what, "--out", out, "--force")
        assert (code, err) == (0, "")
        page = Page(out.read_bytes())
        check_sound(page)
        return page

    return run


def test_a_codec_beside_shannon(report, codec_folder):
    data = json.loads((codec_folder / "codec.json").read_text())
    page = report(codec_folder)
    assert page.tables == report(codec_folder / "codec.json").tables
    points = data["sources"][0]["points"]
    assert page.column("source-1-table", "Bits") == [f"{point['bits']:.4f}" for point in points]
    assert page.column("source-1-table", "Above it") == [f"{point['gap']:.4f}" for point in points]
    for point in points:
        assert any(title.startswith(f"{point['contender']}: {point['bits']:.3f} bits") for title in page.titles)
    gaps = [summary["gap_weighted"] for summary in data["summary"]]
    wanted = [f"{gap['mean']:.4f} ({gap['low']:.4f} to {gap['high']:.4f})" for gap in gaps]
    assert page.column("tensors-table", "Above the bound (95 %)") == wanted
    saved = [row["weighted"] for row in data["comparison"]]
    wanted = [f"{gap['mean']:.4f} ({gap['low']:.4f} to {gap['high']:.4f})" for gap in saved]
    assert page.column("saved-table", "Saved, by size (95 %)") == wanted
    labels = [attributes["aria-label"] for name, attributes in page.tags if attributes.get("class") == "plot"]
    assert labels == [
        *("Rate and distortion", "Distance to Shannon’s bound"),
        *("Rate and distortion", "Distance to the Gaussian’s bound"),
        "Saved against ideal-scalar at equal squared error",
    ]
    assert data["environment"]["cpu"] in page.said


def test_methods_beside_each_other(report, tmp_path):
    path = tmp_path / "models.json"
    path.write_text(json.dumps(models_data()))
    page = report(path)
    assert page.column("methods-table", "Method") == ["nwc", "nwc", "rtn", "rtn", EVIL, EVIL]
    assert page.column("methods-table", "KL")[0] == "0.01562 (0.01406 to 0.01719)"
    assert page.column("methods-table", "Perplexity") == [""] * 6
    tips = [title for title in page.titles if title.startswith("rtn, 4 bits: 4.010 bits per weight, error 0.0156 (")]
    assert len(tips) == 1
    assert page.column("left-out-table", "Why") == [f"not installed {EVIL}"]
    assert page.text.count("</script>") == 1
    assert "4,096 tokens" in page.said


def test_a_folder_with_both(report, codec_folder, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both/codec.json").write_bytes((codec_folder / "codec.json").read_bytes())
    (tmp_path / "both/models.json").write_text(json.dumps(models_data()))
    (tmp_path / "both/other.json").write_text("[1]")
    page = report(tmp_path / "both")
    assert {"source-1-table", "tensors-table", "saved-table", "methods-table"} <= set(page.tables)


def test_figures_that_are_not_known_are_left_out(report, tmp_path):
    """As JSON has infinity and what is not a number."""
    data = models_data()
    for point in data["points"][:3]:
        point["figures"] = {"kl": {"value": 0.0, "low": 0.0, "high": None}}
    data["points"][3]["figures"] = {"kl": figure(0.0)}
    (tmp_path / "m.json").write_text(json.dumps(data))
    page = report(tmp_path / "m.json")
    assert page.column("methods-table", "KL")[:3] == ["0.00000"] * 3
    assert not any(title.startswith(("nwc,", "rtn,")) for title in page.titles)
    (tmp_path / "m.json").write_text(json.dumps(models_data(points=[], left_out=[])))
    assert len(report(tmp_path / "m.json").tables["methods-table"]) == 1


@pytest.mark.parametrize(
    ("content", "said", "code"),
    [
        ("[]", "wanted an artifact, a catalog", 2),
        ('{"points": []}', "wanted an artifact, a catalog", 2),
        ("{", "well-formed JSON", 1),
        (json.dumps({**models_data(), "task": "poetry"}), "key task: found 'poetry'", 1),
        (json.dumps({**models_data(), "scope_weights": 0}), "key scope_weights: found 0", 1),
        ('{"points": [{"method": 7}], "left_out": []}', "found", 1),
    ],
)
def test_files_of_others_are_refused(nwc, tmp_path, content, said, code):
    path = tmp_path / "x.json"
    path.write_text(content)
    found, out, err = nwc("report", path, "--out", tmp_path / "x.html")
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "x.html").exists()


def test_the_settings_of_a_user_change_nothing(report, tmp_path):
    import matplotlib as mpl

    path = tmp_path / "models.json"
    path.write_text(json.dumps(models_data()))
    before = report(path).text
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": False}):
        assert report(path).text == before


def test_benchmarks_are_stored_and_shown_again(nwc, tmp_path):
    options = ("--source", "gaussian", "--size", "64x256", "--bits", 3, "--bits", 4)
    made = nwc("bench", "codec", *options, "--out", tmp_path / "results" / "codec")
    assert made[0] == 0, made[2]
    stored = json.loads((tmp_path / "results" / "codec" / "codec.json").read_text())
    assert (stored["benchmark"], stored["arguments"]["rates"]) == ("codec", [3.0, 4.0])
    assert stored["seed"] is not None and stored["environment"]["packages"]["torch"]
    other = {
        **{"benchmark": "reading", "environment": {"cpu": "of some kind"}},
        "report": [
            {"text": "so it was"},
            {"headers": ["what", "MB"], "rows": [["original", "9.5 MB"], ["nwc", "950 kB"]]},
        ],
    }
    (tmp_path / "results" / "other.json").write_text(json.dumps(other))
    (tmp_path / "results" / "again.json").write_text(json.dumps(stored))  # two of a kind
    code, out, err = nwc("bench", "report", tmp_path / "results", "--out", tmp_path / "report.html")
    assert code == 0, err
    assert made[1].strip() in out
    assert "== reading (other.json; of some kind" in out and "original  9.5 MB" in out
    page = (tmp_path / "report.html").read_text()
    for text in ("nwc bench reading", "so it was", "950 kB", "of some kind", "Shannon"):
        assert text in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert nwc("report", tmp_path / "results" / "other.json", "--out", tmp_path / "other.html")[0] == 0


@pytest.mark.parametrize("report", [None, [{"rows": [["a"]], "headers": []}], [{"text": 1}], "x"])
def test_tables_that_are_damaged_are_named(nwc, tmp_path, report):
    (tmp_path / "speed.json").write_text(json.dumps({"benchmark": "speed", "report": report}))
    code, _, err = nwc("bench", "report", tmp_path / "speed.json")
    assert code == 1
    assert "speed.json: key report" in err and "wanted tables and paragraphs" in err
