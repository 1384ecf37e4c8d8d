"""The measures themselves, against the plainest computation of each."""

import math

import numpy as np
import pytest
import torch

from nwc_core.errors import FormatError
from nwc_workflows.evaluation import encoders, language
from nwc_workflows.evaluation.classifiers import ClassifierTask
from nwc_workflows.evaluation.encoders import EncoderTask
from nwc_workflows.evaluation.intervals import Bootstrap
from nwc_workflows.evaluation.language import LanguageTask
from nwc_workflows.evaluation.task import output_tensor

F = torch.nn.functional


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- intervals


def mean(sums):
    return sums["x"] / sums["units"]


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(40):
        found = Bootstrap({"x": rng.normal(1.0, 2.0, 60), "units": np.ones(60)}).interval(mean)
        assert found.low <= found.value <= found.high
        inside += found.low <= 1.0 <= found.high
    assert 33 <= inside < 40


def test_intervals_are_repeatable_paired_and_honest_about_one_unit():
    x = np.random.default_rng(1).normal(size=40)
    boot = Bootstrap({"x": x, "y": x + 0.5, "units": np.ones(40)})
    assert boot.interval(mean) == Bootstrap({"x": x, "units": np.ones(40)}).interval(mean)
    shift = boot.interval(lambda s: (s["y"] - s["x"]) / s["units"])
    assert (shift.low, shift.value, shift.high) == pytest.approx((0.5, 0.5, 0.5))
    alone = Bootstrap({"x": [3.0], "units": [1.0]}).interval(mean)
    assert (alone.value, alone.low, alone.high) == (3.0, 3.0, 3.0)


# --- language models


class Logits(torch.nn.Module):
    """Logits that depend on the tokens alone, as a lookup."""

    def __init__(self, seed, noise=0.0, vocabulary=11):
        super().__init__()
        self.table = torch.randn(vocabulary, vocabulary, generator=seeded(5))
        self.table += noise * torch.randn(vocabulary, vocabulary, generator=seeded(seed))

    def forward(self, tokens):
        return self.table[tokens]


def windows_of(tokens, window):
    return tuple(part for part in torch.split(tokens, window) if len(part) > 1)


@pytest.mark.parametrize("slice_size", [1 << 22, 30])
def test_language_figures(monkeypatch, slice_size):
    monkeypatch.setattr(language, "_SLICE", slice_size)
    tokens = torch.randint(11, (43,), generator=seeded())
    windows = windows_of(tokens, 8)
    task = LanguageTask(windows, 8, 2, "")
    before, after = Logits(0), Logits(1, 0.3)
    seen = []
    found = task.compare(task.outputs(before, seen.append), task.outputs(after, seen.append))
    assert sum(seen) == 2 * task.count == 12

    targets = torch.cat([window[1:] for window in windows])  # every window by itself, the short one too
    p, q = (torch.cat([model.table[window[:-1]] for window in windows]).double() for model in (before, after))
    assert len(targets) == 43 - 6
    perplexity = [math.exp(F.cross_entropy(logits, targets)) for logits in (p, q)]
    assert found.original["perplexity"].value == pytest.approx(perplexity[0])
    assert found.compressed["perplexity"].value == pytest.approx(perplexity[1])
    assert found.compressed["perplexity_change"].value == pytest.approx(perplexity[1] - perplexity[0])
    kl = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="batchmean", log_target=True)
    assert found.compressed["kl"].value == pytest.approx(float(kl))
    same = (p.argmax(-1) == q.argmax(-1)).double().mean()
    assert found.compressed["top1_agreement"].value == pytest.approx(float(same))
    assert 0 < found.compressed["kl"].low < found.compressed["kl"].value < found.compressed["kl"].high


def test_a_token_that_is_ruled_out_adds_no_divergence():
    task = LanguageTask((torch.tensor([0, 1, 1]),), 3, 1, "")
    before = torch.tensor([[[0.0, 1.0, -math.inf]] * 2])
    assert task.compare([before], [before]).compressed["kl"].value == 0
    assert task.compare([before], [torch.zeros(1, 2, 3)]).compressed["kl"].value > 0
    infinite = task.compare([torch.zeros(1, 2, 3)], [before]).compressed["kl"]
    assert (infinite.value, infinite.low, infinite.high) == (math.inf, math.inf, math.inf)


def test_outputs_that_do_not_fit_are_refused():
    task = LanguageTask((torch.tensor([0, 1, 1]),), 3, 1, "")
    with pytest.raises(FormatError, match=r"found \[1, 2, 4\]; wanted \[1, 2, 3\]"):
        task.compare([torch.zeros(1, 2, 3)], [torch.zeros(1, 2, 4)])
    with pytest.raises(FormatError, match=r"found dict; wanted a tensor, or an object with \.logits"):
        output_tensor({"logits": 1}, "logits")


# --- encoders


def test_encoder_figures(monkeypatch):
    before = F.normalize(torch.randn(30, 8, generator=seeded(1)), dim=1)
    after = F.normalize(before + 0.2 * torch.randn(30, 8, generator=seeded(2)), dim=1)
    task = EncoderTask((), 30, 256, "")
    found = task.compare(before.split(7), after.split(7)).compressed
    error = (before - after).square().sum() / before.square().sum()
    assert found["error_db"].value == pytest.approx(10 * math.log10(error), abs=1e-4)
    cosine = F.cosine_similarity(before, after)
    assert found["cosine"].value == pytest.approx(float(cosine.mean()), abs=1e-6)
    assert found["least_cosine"] == pytest.approx(float(cosine.min()), abs=1e-6)
    nearest = [
        [max((j for j in range(30) if j != i), key=lambda j: float(x[i] @ x[j])) for i in range(30)]
        for x in (before, after)
    ]
    same = np.mean(np.array(nearest[0]) == np.array(nearest[1]))
    assert 0 < same < 1
    assert found["retrieval_agreement"].value == pytest.approx(same)
    monkeypatch.setattr(encoders, "_SIMILARITIES", 1)  # a row at a time
    assert task.compare([before], [after]).compressed == found


def test_an_embedding_is_the_mean_over_the_tokens_that_count():
    class States(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return torch.stack([input_ids.float(), torch.ones_like(input_ids).float()], -1)

    inputs = {"input_ids": torch.tensor([[3, 5, 9]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    (embedding,) = EncoderTask((inputs,), 1, 256, "").outputs(States(), lambda amount: None)
    assert embedding[0].tolist() == pytest.approx([4 / 17**0.5, 1 / 17**0.5])


# --- classifiers


class Pictures:
    labels = np.array([0, 1, 2, 0])
    sha256 = ""


def test_classifier_figures():
    task = ClassifierTask(Pictures(), lambda pictures: torch.zeros(1), 2)
    before, after = torch.eye(3)[[0, 1, 1, 0]], torch.eye(3)[[0, 2, 2, 0]]
    found = task.compare(before.split(2), after.split(2))
    assert found.original["accuracy"].value == 0.75
    assert found.compressed["accuracy"].value == 0.75
    assert found.compressed["accuracy_change"].value == 0
    assert found.compressed["accuracy_change"].low < 0 < found.compressed["accuracy_change"].high
    assert found.compressed["agreement"].value == 0.5
    with pytest.raises(FormatError, match=r"found label 2; wanted labels for the model's output \[4, 2\]"):
        task.compare([before[:, :2]], [after[:, :2]])
