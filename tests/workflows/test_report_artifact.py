"""`nwc report` of an artifact: what manifest and index know is on the page, names of strangers do nothing there."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from checkpoints import BITS, all_tensors, contents, lossy_tensors, normal, rewrite_index, save, snapshot
from report_page import Page, check_sound

import nwc_core
from nwc_core.store import open_store
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.report import make as make_module

HOSTILE = (
    'layers.0.<script>alert("x")</script>',
    'layers.1.<script>alert("x")</script>',
    "layers.2.\"><img src=x onerror='alert(1)'>&amp;&lt;",
    "layers.3.{{ 7 * 7 }}$\\frac{1}{2}$",
    "layers.4.\u202egnp.\x1b[31mred\x00",
    "layers.5.-->]]></title></style>",
)


@pytest.fixture
def report(nwc, tmp_path):
    """report(what, options): the page that `nwc report` writes."""

    def run(what, *options):
        out = tmp_path / "a report.html"
        code, said, err = nwc("report", what, "--out", out, "--force", *options)
        assert (code, err.count("nwc: error")) == (0, 0), err
        assert said.startswith(f"{out}: a report of the ")
        page = Page(out.read_bytes())
        check_sound(page)
        return page

    return run


@pytest.fixture(scope="module")
def hostile(codec, ray_cluster, tmp_path_factory):
    """(folder of the original, artifact) with such names. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("hostile")
    tensors = {f"{name}.weight": normal(64, 96, seed=n) for n, name in enumerate(HOSTILE)}
    save(folder / "source" / "model.safetensors", tensors)
    plan = make_plan(folder / "source", codec, CompressOptions(bits=16.0))
    compress(plan, open_store(folder / "out.nwc"))
    return folder / "source", folder / "out.nwc"


def test_manifest_and_index_are_on_the_page(report, artifact):
    page = report(artifact)
    with nwc_core.open(artifact) as opened:
        manifest, index = opened.manifest, opened.index
    wanted = all_tensors()
    rows = {row[0]: row[1:] for row in page.tables["tensors"][1:]}
    assert len(rows) == len(wanted)
    shape, dtype, coder, weights, bits, _, share, error = rows["encoder.0.weight"]
    blocks = index.blocks("encoder.0.weight")
    nbytes = sum(block.length for block in blocks)
    everything = manifest.counts.payload_bytes + manifest.index.size + manifest.codec.size + len(manifest.to_bytes())
    assert (shape, dtype, coder, weights) == ("128x256", "F32", "nwc", "32,768")
    assert bits == f"{8 * nbytes / 32768:.3f}"
    assert share == f"{100 * nbytes / everything:.2f} %"
    mse = sum(block.mse * block.numel for block in blocks) / 32768
    assert float(error) == pytest.approx(mse**0.5, rel=0.01)
    assert rows["norm.weight"][-1] == "exact"
    before = sum(file.size for file in manifest.weight_files)
    assert f"{before / everything:.2f}×" in page.said
    assert f"{8 * everything / manifest.counts.weights:.3f}" in page.said
    assert f"{BITS:g} bits per weight, all bytes counted" in page.said
    assert "default, which nwc ships" in page.said
    assert page.column("skipped", "File") == ["pytorch_model.bin"]
    assert manifest.skipped[0].reason in page.column("skipped", "Why")
    exact = [name for name in wanted if all(block.mse == 0 for block in index.blocks(name))]
    assert f"{len(exact)} of {len(wanted)} tensors are stored bit for bit" in page.said
    assert f"{manifest.counts.weights:,}" in page.said
    assert "at $0.023 per GB and month" in page.said


def test_no_payload_is_read(report, own_artifact):
    before = report(own_artifact).text
    for path in own_artifact.glob("payload-*"):
        path.unlink()
    assert report(own_artifact).text == before


def test_the_price_counts(report, artifact):
    page = report(artifact, "--price", "1000000")
    with nwc_core.open(artifact) as opened:
        manifest = opened.manifest
    after = manifest.counts.payload_bytes + manifest.index.size + manifest.codec.size + len(manifest.to_bytes())
    saved = (sum(file.size for file in manifest.weight_files) - after) / 1e9 * 1e6
    assert f"{'' if saved >= 0 else '−'}${abs(saved):,.2f}" in page.said
    assert "at $1e+06 per GB and month" in page.said


def test_with_the_original_errors_are_relative(report, artifact, model):
    without = report(artifact)
    assert "plot" not in [attributes.get("class") for name, attributes in without.tags if name == "svg"]
    assert "--original PATH" in without.said
    page = report(artifact, "--original", model)
    assert page.text == report(artifact, "--original", model).text
    errors = dict(zip(page.column("tensors", "Tensor"), page.column("tensors", "Error"), strict=True))
    with nwc_core.open(artifact) as opened:
        for name, tensor in lossy_tensors().items():
            exact = tensor.double()
            error = (opened.get_tensor(name).double() - exact).square().mean() / exact.square().mean()
            assert errors[name].endswith(" %")
            assert float(errors[name][:-2]) == pytest.approx(100 * float(error) ** 0.5, rel=0.006), name
            (tip,) = [title for title in page.titles if title.startswith(f"{name}: ") and title.endswith(" dB")]
            assert float(tip.split()[-2]) == pytest.approx(10 * torch.log10(error).item(), abs=0.006)
    assert "Shannon’s bound for a Gaussian" in page.said
    assert "--original PATH" not in page.said


def test_another_original_is_refused(nwc, failing, artifact, model, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    path = other / "model-00002-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    line = failing("report", artifact, "--out", tmp_path / "x.html", "--original", other)
    assert "other weights; wanted those that the artifact was made from" in line
    save(tmp_path / "none" / "model.safetensors", {"w": normal(64, 64)})
    line = failing("report", artifact, "--out", tmp_path / "x.html", "--original", tmp_path / "none")
    assert "no such tensor" in line
    assert not (tmp_path / "x.html").exists()


def test_names_of_strangers_do_nothing(report, hostile):
    source, artifact = hostile
    page = report(artifact, "--original", source)
    shown = [f"{name}.weight" for name in HOSTILE]
    shown[4] = repr(shown[4])  # control codes, and what turns the rest of the line around
    assert page.column("tensors", "Tensor") == shown
    for name in shown:
        assert any(title.startswith(f"{name}: ") and title.endswith(" dB") for title in page.titles), name
    assert not {"\x1b", "\x00", "\u202e"} & set(page.text)
    assert page.text.count("</script>") == 1
    assert page.text.count("</style>") == 1


def test_layers_are_mapped(report, codec, ray_cluster, tmp_path):
    tensors = {}
    for layer in range(3):
        tensors[f"model.layers.{layer}.attn.weight"] = normal(64, 64, seed=layer)
        tensors[f"model.layers.{layer}.mlp.weight"] = normal(64, 128, seed=9 + layer)
        tensors[f"model.layers.{layer}.norm"] = normal(64, seed=99 + layer)
    save(tmp_path / "source" / "model.safetensors", tensors)
    plan = make_plan(tmp_path / "source", codec, CompressOptions(bits=12.0))
    compress(plan, open_store(tmp_path / "out.nwc"))
    page = report(tmp_path / "out.nwc", "--original", tmp_path / "source")
    head, *rows = page.tables["map-1-bits"]
    assert head == ["layer", "attn", "mlp"]  # norms are exact, .weight goes without saying
    assert [row[0] for row in rows] == ["0", "1", "2"]
    bits = dict(zip(page.column("tensors", "Tensor"), page.column("tensors", "Bits"), strict=True))
    for layer, row in enumerate(rows):
        for kind, cell in zip(head[1:], row[1:], strict=True):
            name = f"model.layers.{layer}.{kind}.weight"
            assert cell.startswith(f"{float(bits[name]):.2f}")
            assert f"{name}: {bits[name]} bits per weight" in cell
            assert any(title.startswith(f"{name}: {bits[name]} bits per weight, ") for title in page.titles)
    assert [row[0] for row in page.tables["map-1-error"][1:]] == ["0", "1", "2"]


def test_how_it_was_made(report, codec, ray_cluster, tmp_path):
    save(tmp_path / "source" / "model.safetensors", {"w": normal(64, 64), "keep.bias": normal(64)})
    exact = CompressOptions(lossless=True)
    compress(make_plan(tmp_path / "source", codec, exact), open_store(tmp_path / "exact.nwc"))
    page = report(tmp_path / "exact.nwc")
    assert "every tensor bit for bit" in page.said
    assert "All 2 tensors are stored bit for bit." in page.said
    assert "Rate and distortion" not in page.said
    near = CompressOptions(max_relative_error=0.01)
    compress(make_plan(tmp_path / "source", codec, near), open_store(tmp_path / "near.nwc"))
    assert "no weight off by more than 1 % of itself" in report(tmp_path / "near.nwc").said


def test_a_report_of_an_artifact_of_nothing(report, codec, ray_cluster, tmp_path):
    save(tmp_path / "source" / "model.safetensors", {"empty": torch.empty(0, 3)})
    compress(make_plan(tmp_path / "source", codec, CompressOptions()), open_store(tmp_path / "out.nwc"))
    page = report(tmp_path / "out.nwc", "--original", tmp_path / "source")
    assert page.column("tensors", "Bits") == [""]


def test_what_is_there_is_not_replaced(nwc, failing, artifact, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("mine")
    before = snapshot(tmp_path)
    line = failing("report", artifact, "--out", out)
    assert line.endswith("already exists; nothing was written; --force replaces it")
    assert snapshot(tmp_path) == before
    code, said, _ = nwc("report", artifact, "--out", out, "--force", "--output", "json")
    assert code == 0
    assert json.loads(said) == {
        "what": str(artifact),
        "kind": "artifact",
        "file": out.as_uri(),
        "bytes": out.stat().st_size,
    }
    assert list(contents(tmp_path)) == ["report.html"]
    code, _, err = nwc("report", artifact, "--out", tmp_path)
    assert code == 2
    assert "found a folder; wanted the name of a file" in err


def test_a_failure_leaves_what_was_there(nwc, artifact, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("mine")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    code, said, err = nwc("report", artifact, "--out", out, "--force")
    assert (code, said) == (1, "")
    assert "no space left on the device" in err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.html": "mine"}


def test_a_damaged_artifact_is_refused(failing, own_artifact, tmp_path):
    (index,) = own_artifact.glob("index-*")
    index.write_bytes(index.read_bytes()[:-1])
    assert "index-" in failing("report", own_artifact, "--out", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_matplotlib_is_missed_before_weights_are_read(nwc, artifact, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(make_module, "open_checkpoint", lambda *_: pytest.fail("opened"))
    code, _, err = nwc("report", artifact, "--out", tmp_path / "x.html", "--original", model)
    assert code == 2
    assert "pip install 'nwc[plots]'" in err
    code, _, err = nwc("report", artifact, "--out", tmp_path / "x.html")  # has no plot
    assert code == 0, err


@pytest.mark.parametrize("make", [lambda path: path / "nowhere", lambda path: path])
def test_what_is_none_of_them_is_refused(nwc, tmp_path, make):
    code, out, err = nwc("report", make(tmp_path), "--out", tmp_path / "x.html")
    assert (code, out) == (2, "")
    assert "wanted an artifact, a catalog" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mse", [0.25, float("inf")])
def test_an_infinite_error_has_no_place_in_a_plot(report, own_artifact, model, mse):
    """Of weights that are all zero, or as a hostile index may have it."""
    changed = ("zeros", "encoder.0.weight") if mse == float("inf") else ("zeros",)
    rewrite_index(own_artifact, lambda rows: [replace(r, mse=mse) if r.tensor in changed else r for r in rows])
    page = report(own_artifact, "--original", model)
    errors = dict(zip(page.column("tensors", "Tensor"), page.column("tensors", "Error"), strict=True))
    assert {errors[name] for name in changed} == {"∞"}
    assert not any(title.startswith(f"{name}: ") and title.endswith("dB") for name in changed for title in page.titles)
    assert any(title.startswith("encoder.1.weight: ") and title.endswith("dB") for title in page.titles)
    errors = dict(zip(*(report(own_artifact).column("tensors", key) for key in ("Tensor", "Error")), strict=True))
    assert errors["zeros"] == ("0.5" if mse == 0.25 else "∞")
