"""`nwc bench leave-one-out`: the codec never saw the family, and what it saves is what theory says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_samples import QUICK, checkpoint, kernels, samples

from nwc_core.codec import Codec
from nwc_core.errors import UsageError
from nwc_workflows.bench import trained
from nwc_workflows.bench.contenders import find_contenders
from nwc_workflows.bench.families import Family, find_families
from nwc_workflows.bench.leave_one_out import LeaveOneOut
from nwc_workflows.bench.leave_one_out_report import LeaveOneOutReport
from nwc_workflows.bench.sheets import parts_text
from nwc_workflows.bench.summary import BEST
from nwc_workflows.bench.trained import Workshop
from nwc_workflows.progress import Progress

Run = Callable[..., tuple[int, str, str]]
# What a scalar quantiser loses to Shannon's bound, and what the trellis of 8 states does.
SCALAR, TRELLIS = 0.5 * math.log2(math.pi * math.e / 6), 0.077


class _Unwatched:
    def advance(self, amount: float) -> None:
        pass


def silently(total: int, what: str) -> AbstractContextManager[Progress]:
    return nullcontext(_Unwatched())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "CONFIG", QUICK)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, codec: Codec) -> list[str]:
    """Two checkpoints of linear layers, and one with kernels, as the command is given them."""
    folder = tmp_path_factory.mktemp("families")
    linear = [checkpoint(folder, name, w=samples("gaussian", 160, 160, seed=i)) for i, name in enumerate("ab")]
    deviations = 2.0 ** np.arange(2, -2.5, -0.5)
    conv = checkpoint(folder, "conv", k=kernels(codec, deviations, 48, 40), w=samples("gaussian", 160, 160, seed=2))
    return [",".join(map(str, linear)), str(conv)]


def test_families(three: list[str], tmp_path: Path) -> None:
    linear, conv = find_families(three)
    assert [(f.name, [s.name for s in f.sources]) for f in (linear, conv)] == [
        ("a + 1", ["a", "b"]),
        ("conv", ["conv"]),
    ]
    assert linear.convolutions() == []
    ((kernel,),) = (source.checkpoint.tensors for source in conv.convolutions())
    assert kernel.name == "k"
    assert len(conv.sources[0].checkpoint.tensors) == 2
    # TensorFlow's layout is 3x3 too; kernels of another size, and nine taps in a row, are not.
    others = {"five": torch.ones(24, 24, 5, 5), "row": torch.ones(24, 24, 9)}
    many = checkpoint(tmp_path, "many", tf=torch.ones(3, 3, 24, 24), **others)
    names = [
        t.name for source in find_families([str(many), three[1]])[0].convolutions() for t in source.checkpoint.tensors
    ]
    assert names == ["tf"]


def test_families_that_cannot_be_told_apart_are_refused(three: list[str], tmp_path: Path) -> None:
    again = checkpoint(tmp_path, "conv", w=samples("gaussian", 64, 64))
    with pytest.raises(UsageError, match="found 1; wanted at least two"):
        find_families(three[:1])
    with pytest.raises(UsageError, match="with an empty name in it"):
        find_families([*three, f"{three[0]},"])
    with pytest.raises(UsageError, match="two named 'conv'"):
        find_families([*three, str(again)])
    other = checkpoint(tmp_path, "other", w=samples("gaussian", 64, 64))
    with pytest.raises(UsageError, match="checkpoints: found two named 'conv'"):
        find_families([*three, f"{other},{again}"])


def test_a_codec_never_sees_the_family(quick: None, three: list[str]) -> None:
    plan = LeaveOneOut(find_families(three), ["fast"], find_contenders(["ideal-scalar"], ["fast"]), [3.0])
    for family, learned_from in zip(plan.families, (["conv"], ["a", "b"]), strict=True):
        provenance = plan.train(family, Workshop(None, silently)).provenance
        assert [source["name"] for source in provenance["sources"]] == learned_from
        assert provenance["tensors"]["held_out"] == 0


@pytest.fixture(scope="module")
def measured(three: list[str], codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> LeaveOneOutReport:
    """With the shipped codec in place of trained ones, against itself with one state and the ideal scalar quantiser."""
    families = find_families(three)
    reference = tmp_path_factory.mktemp("codec") / "reference.safetensors"
    sources = [{"name": "renamed", "sha256": families[1].sources[0].sha256}]
    made = Codec(codec.prior, codec.transforms, {"sources": sources})
    reference.write_bytes(made.to_bytes())
    references = find_contenders(["ideal-scalar", str(reference)], ["scalar"])
    plan = LeaveOneOut(families, ["default"], references, [3.0, 4.0])
    return LeaveOneOutReport(plan, [plan.measure(family, codec, silently) for family in families])


def test_savings_on_gaussians(measured: LeaveOneOutReport) -> None:
    linear = measured.savings["a + 1"]
    assert linear.transform == linear.bases == []
    saved = {(c.baseline, c.wanted): c for c in linear.references}
    assert set(saved) == {(b, r) for b in ("ideal-scalar", "reference:scalar", BEST) for r in (3.0, 4.0, None)}
    for rate in (3.0, 4.0, None):
        # Side information and the coder's states take some hundredths of a bit of matrices so small.
        assert saved["ideal-scalar", rate].plain.mean == pytest.approx(SCALAR - TRELLIS, abs=0.035)
        assert saved["reference:scalar", rate].plain.mean == pytest.approx(SCALAR - TRELLIS, abs=0.035)
        pairs = zip(saved["ideal-scalar", rate].saved, saved["reference:scalar", rate].saved, strict=True)
        if rate:
            assert saved[BEST, rate].saved == pytest.approx([min(pair) for pair in pairs])


def test_savings_on_kernels(measured: LeaveOneOutReport, codec: Codec) -> None:
    conv = measured.savings["conv"]
    deviations = 2.0 ** np.arange(2, -2.5, -0.5)
    taps = np.square(codec.transforms[0] / 2.0**14).T @ np.square(deviations)
    gain = 0.5 * float(np.log2(taps).mean() - np.log2(np.square(deviations)).mean())
    assert gain > 0.3
    assert [c.wanted for c in conv.transform] == [c.wanted for c in conv.bases] == [3.0, 4.0, None]
    for transform, bases in zip(conv.transform, conv.bases, strict=True):
        assert len(transform.saved) == 1
        assert transform.plain.mean == pytest.approx(gain, abs=0.05)
        assert abs(bases.plain.mean) < 0.01  # nothing is left for them


def test_over_all_families_every_tensor_counts(measured: LeaveOneOutReport) -> None:
    single = [measured.savings[family.name] for family in measured.plan.families]
    for together, *parts in zip(measured.savings["all"].references, *(s.references for s in single), strict=True):
        assert together.saved == tuple(value for part in parts for value in part.saved)
        assert len(together.saved) == 4
    assert measured.savings["all"].transform[-1].saved == single[1].transform[-1].saved


def test_a_reference_that_saw_the_family_is_pointed_out(measured: LeaveOneOutReport) -> None:
    assert measured.known == {"reference": ["conv"]}
    assert "reference was trained on: conv" in parts_text(measured.parts())
    with pytest.raises(UsageError, match="'left-out'"):
        renamed = [[replace(group[0], name="left-out")] for group in measured.plan.references]
        replace(measured.plan, references=renamed)


def test_the_command(quick: None, nwc: Run, three: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--against", "ideal-scalar", "--preset", "fast", "--bits", "4", "--max-weights", "4096")
    code, said, err = nwc("bench", "leave-one-out", *three, *options, "--out", out, "--output", "json")
    assert code == 0, err
    found = json.loads(said)
    assert found == json.loads((out / "leave-one-out.json").read_text())
    assert {file.name for file in out.iterdir()} == {"leave-one-out.json", "saved.png", "kernels.png"}
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 15_000  # something is drawn
    assert [family["name"] for family in found["families"]] == ["a + 1", "conv"]
    linear, conv = found["families"]
    assert [tensor["name"] for tensor in linear["tensors"]] == ["w", "w"]
    assert [tensor["name"] for tensor in conv["convolutions"]] == ["k"]
    assert linear["codec"] != conv["codec"]
    assert linear["training"]["sources"] == conv["checkpoints"]
    assert [len(c["saved"]) for c in found["all"]["saved"]["references"]] == [4, 4]


def test_tables_for_people(measured: LeaveOneOutReport) -> None:
    said = parts_text(measured.parts())
    for text in ("a + 1", "the better of them", "Kernels of 3x3", "bases besides", "Over all families, by rate"):
        assert text in said


def test_wrong_usage(nwc: Run, three: list[str]) -> None:
    for arguments, said in (
        ((three[0],), "wanted at least two"),
        ((*three, "--against", "ideal-scalar", "--against", "ideal-scalar"), "two named"),
        ((*three, "--against", "ideal-scalar", "--out", "/dev/null/x"), "--out"),
        ((), "FAMILY"),
    ):
        code, out, err = nwc("bench", "leave-one-out", *arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err


def test_kernels_left_out_are_named_too(three: list[str], codec: Codec, tmp_path: Path) -> None:
    bare = checkpoint(tmp_path, "bare", kernel=torch.ones(24, 24, 3, 3))
    families = find_families([str(bare), three[0].split(",")[0]])
    plan = LeaveOneOut(families, ["fast"], find_contenders(["ideal-scalar"], ["fast"]), [3.0])
    report = LeaveOneOutReport(plan, [plan.measure(family, codec, silently) for family in families])
    assert "left out of kernels, since coded without loss: bare/kernel" in parts_text(report.parts())
    found = report.data()["families"][0]
    assert found["coded_losslessly"] == found["convolutions_coded_losslessly"] == ["bare/kernel"]


def test_family_of_nothing_lossy(three: list[str], codec: Codec, tmp_path: Path) -> None:
    bare = checkpoint(tmp_path, "bare", bias=torch.zeros(64), constant=torch.ones(64, 64))
    families = find_families([str(bare), three[0].split(",")[0]])
    plan = LeaveOneOut(families, ["fast"], find_contenders(["ideal-scalar"], ["fast"]), [3.0])
    report = LeaveOneOutReport(plan, [plan.measure(family, codec, silently) for family in families])
    assert report.savings["bare"].references == []
    assert len(report.savings["all"].references[0].saved) == 1
    assert "left out, since coded without loss: bare/constant\n" in parts_text(report.parts()) + "\n"
    assert "of kernels" not in parts_text(report.parts())
    assert [path.name for path in report.write_plots(tmp_path)] == ["saved.png"]
    assert isinstance(families[0], Family)
