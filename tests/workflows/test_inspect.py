"""`nwc inspect`: what people see, on terminals wide and narrow and in pipes, and the difference of two artifacts."""

import io
import json
import re
import shutil
import sys

import pytest
import torch
from checkpoints import CONFIG, all_tensors, contents, lossy_tensors, normal, save

import nwc_core
from nwc_core.store import open_store
from nwc_workflows import cli
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan


def layers(n=4, **changed):
    """A small model of alike layers."""
    tensors = {"embed.weight": normal(200, 32, seed=99)}
    for i in range(n):
        tensors[f"layers.{i}.attn.weight"] = normal(64, 64, seed=i)
        tensors[f"layers.{i}.norm"] = normal(64, seed=50 + i)
    return {**tensors, **changed}


@pytest.fixture(scope="module")
def make(codec, tmp_path_factory, ray_cluster):
    """Compresses tensors, a folder with a config; the artifact's folder."""

    def run(tensors, bits=12.0, config=None):
        folder = tmp_path_factory.mktemp("made")
        save(folder / "source" / "model.safetensors", tensors)
        (folder / "source" / "config.json").write_text(json.dumps(config or CONFIG))
        compress(make_plan(folder / "source", codec, CompressOptions(bits=bits)), open_store(folder / "out"))
        return folder / "out"

    return run


@pytest.fixture(scope="module")
def four(make):
    return make(layers())


@pytest.fixture
def on_terminal(monkeypatch):
    """Runs `nwc ARGUMENTS` with stdout as a terminal of that width and encoding: what it showed."""

    def run(columns, *arguments, encoding="utf-8"):
        class Terminal(io.TextIOWrapper):
            def isatty(self):
                return True

        raw = io.BytesIO()
        screen = Terminal(raw, encoding)
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        screen.flush()
        monkeypatch.undo()
        assert not ended.value.code
        return raw.getvalue().decode(encoding)

    return run


def plain(text):
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- one artifact


def test_the_tree(nwc, four):
    code, out, err = nwc("inspect", four)
    assert (code, err) == (0, "")
    header, *lines, last = out.splitlines()
    assert header.split() == ["tensor", "dtype", "shape", "coder", "bits", "rms", "error", "bytes", "share"]
    assert [re.split(r"  +", line)[0] for line in lines] == [
        *("embed.weight", "layers.0…3", "├─ attn.weight", "└─ norm"),
        "(index, codec, …)",
    ]
    assert re.fullmatch(
        r"├─ attn.weight +F32 +64x64 +nwc +\d\.\d{3} +0\.00\d+ +[\d.]+ kB +\d+\.\d % +[█▏▎▍▌▋▊▉]+", lines[2]
    )
    assert re.fullmatch(r"└─ norm +F32 +64 +(raw|zstd|float) +\d\d\.\d{3} +0 .*", lines[3])
    assert re.match(r"layers\.0…3 +8 tensors +\d", lines[1])
    shares = [float(re.search(r"([\d.]+) %", line)[1]) for line in lines]
    assert shares[0] + shares[1] + shares[4] == pytest.approx(100, abs=0.2)
    assert shares[2] + shares[3] == pytest.approx(shares[1], abs=0.11)
    assert last.startswith(f"{sum(t.numel() for t in layers().values()):,} weights, ")


def test_depth(nwc, four):
    _, out, _ = nwc("inspect", four, "--depth", "1")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["embed.weight", "layers.0…3", "(index,"]
    code, _, err = nwc("inspect", four, "--depth", "0")
    assert code == 2
    assert "'--depth': 0 is not in the range x>=1" in err
    code, _, err = nwc("inspect", four, "--depth", "1", "--flat")
    assert code == 2
    assert "depth: a flat list has none; leave out --flat or --depth" in err


def test_a_relative_error_is_that_of_the_weights(nwc, four):
    code, data, _ = nwc("inspect", four, "--relative", "--output", "json")
    assert code == 0
    found = {t["name"]: t["relative_error"] for t in json.loads(data)["tensors"]}
    wanted = layers()
    with nwc_core.open(four) as opened:
        for name, tensor in wanted.items():
            back = opened.get_tensor(name).double()
            error = (back - tensor.double()).square().mean().sqrt()
            assert found[name] == pytest.approx(float(error / back.square().mean().sqrt()), rel=1e-5), name
    _, out, _ = nwc("inspect", four, "--relative")
    assert re.search(r"attn.weight .* (\d\.\d+) % .* % ", out)


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 200])
def test_a_terminal_is_never_too_narrow(on_terminal, artifact, columns):
    shown = plain(on_terminal(columns, "inspect", artifact))
    *table, last = shown.splitlines()
    assert last.endswith("kB")  # a sentence: the terminal breaks it
    assert all(len(line) <= columns for line in table)
    if columns >= 60:
        assert any("embedding" in line and re.search(r"\d\.\d{3} ", line) for line in table)
    assert ("rms error" in table[0]) == (columns >= 80)


def test_a_terminal_without_unicode_gets_none(on_terminal, four):
    shown = on_terminal(100, "inspect", four, encoding="ascii")
    assert "|- attn.weight" in shown.replace("|-- ", "|- ")
    assert "layers.0~3" in shown


def test_colours_are_for_terminals(on_terminal, nwc, four):
    shown = on_terminal(100, "inspect", four)
    assert shown.startswith("\x1b[2mtensor")
    assert re.search("\n\x1b\\[2m├─ \x1b\\[0mattn.weight .* kB .* % +\x1b\\[36m█", shown)
    assert "\x1b" not in nwc("inspect", four)[1]


@pytest.mark.parametrize("options", [[], ["--flat"], ["--depth", "1"]])
def test_names_of_strangers_are_shown_and_do_nothing(nwc, on_terminal, make, options):
    path = make(
        {"a\nb\x1b[2J\x07.w": normal(64, 64), "[bold]x[/bold].:smile:": normal(64, 64, seed=1), "\u202eevil": normal(3)}
    )
    code, out, err = nwc("inspect", path, *options)
    assert code == 0
    assert not set("\x1b\x07\u202e") & set(out + err)
    assert "[bold]x[/bold].:smile:" in out
    assert r"\x1b[2J" in out
    shown = plain(on_terminal(200, "inspect", path, *options))
    assert not set("\x1b\x07\u202e") & set(shown)
    assert "[bold]x[/bold].:smile:" in shown


def test_an_artifact_of_nothing(nwc, make):
    path = make({})
    assert nwc("inspect", path)[0] == 0
    assert nwc("inspect", path, path)[1].endswith("no tensors\n")


# --- two artifacts


@pytest.fixture(scope="module")
def changed(make):
    """Another one: a layer less, one with other weights, one of another type, a new tensor, another configuration."""
    tensors = layers(3)
    tensors["layers.1.attn.weight"] = normal(64, 64, seed=77)
    tensors["embed.weight"] = tensors["embed.weight"].to(torch.bfloat16)
    return make({**tensors, "new": normal(5)}, bits=11.0, config={**CONFIG, "x": 1})


def test_an_artifact_does_not_differ_from_itself(nwc, four, tmp_path):
    copy = shutil.copytree(four, tmp_path / "copy.nwc")
    code, out, err = nwc("inspect", four, copy)
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == ["A", "B", "9 tensors"]
    assert out.endswith("9 tensors: 9 same\n")
    assert "layers.0…3" in nwc("inspect", four, copy, "--all")[1]


def test_what_differs_is_shown(nwc, four, changed):
    code, out, _ = nwc("inspect", four, changed)
    assert code == 0
    assert re.search(r"^embed.weight +other type +\d\.\d{3} -> \d\.\d{3} ", out, re.M)
    assert re.search(r"^├─ 1\.attn\.weight +other weights", out, re.M)
    assert re.search(r"0, 2\.attn\.weight +coded differently +.* [+-]\d+\.\d %$", out, re.M)
    assert re.search(r"^new +only in B +- -> \d", out, re.M)
    assert re.search(r"^└─ 3 +only in A +\d\.\d{3} -> - ", out, re.M)
    assert "bits: 12.0 -> 11.0" in out
    assert "config.json: changed" in out
    assert re.search(r"10 tensors: .*1 only in B", out)


def test_the_difference_as_json(nwc, four, changed):
    code, out, _ = nwc("inspect", four, changed, "--output", "json")
    data = json.loads(out)
    assert code == 0
    status = {tensor["name"]: tensor["status"] for tensor in data["tensors"]}
    assert status == {
        "embed.weight": "other type",
        **{f"layers.{i}.attn.weight": "coded differently" for i in (0, 2)},
        "layers.1.attn.weight": "other weights",
        **{f"layers.{i}.norm": "same" for i in range(3)},
        **dict.fromkeys(("layers.3.attn.weight", "layers.3.norm"), "only in A"),
        "new": "only in B",
    }
    assert data["counts"] == {
        "same": 3,
        "coded differently": 2,
        "only in A": 2,
        "only in B": 1,
        "other type": 1,
        "other weights": 1,
    }
    assert data["options"]["bits"] == {"a": 12.0, "b": 11.0}
    assert data["same_codec"] is True
    assert data["files"] == {"config.json": "changed"}
    assert data["a"]["weight_bytes"] == sum(len(d) for name, d in contents(four).items() if "config" not in name)
    assert [tensor["a"] is None for tensor in data["tensors"]] == [*[False] * 9, True]
    assert {tensor["b"]["dtype"] for tensor in data["tensors"] if tensor["name"] == "embed.weight"} == {"BF16"}


def test_another_codec_makes_the_same_bytes_mean_something_else(nwc, four, changed, monkeypatch):
    with nwc_core.open(four) as a, nwc_core.open(four) as b:
        from nwc_workflows.compare import compare

        codec = b.manifest.codec.model_copy(update={"sha256": "0" * 64})
        b.manifest = b.manifest.model_copy(update={"codec": codec})
        found = compare(a, b)
    assert not found.same_codec
    status = {pair.name: pair.status for pair in found.tensors}
    assert status["layers.0.norm"] == "same"
    assert status["layers.0.attn.weight"] == "coded differently"


def test_options_for_the_other_form_are_wrong_usage(nwc, four):
    for arguments, message in (
        (["--all"], "all: only with two artifacts"),
        ([four, "--relative"], "relative: only with one"),
    ):
        code, out, err = nwc("inspect", four, *arguments)
        assert (code, out) == (2, "")
        assert message in err


def test_the_flat_difference(nwc, four, changed):
    _, out, _ = nwc("inspect", four, changed, "--flat")
    assert out.splitlines()[0].split()[:3] == ["tensor", "status", "bits"]
    assert re.search(r"^layers\.1\.attn\.weight +other weights", out, re.M)
    assert "norm" not in "".join(re.findall(r"^layers\.[0-2]\..*", out, re.M))


def test_every_tensor_of_a_real_variety_is_in_the_tree(nwc, artifact):
    _, out, _ = nwc("inspect", artifact)
    assert sum(map(int, re.findall(r" (\d+) tensors? ", out))) >= len(lossy_tensors()) // 2
    assert len(out.splitlines()) >= len(all_tensors())
