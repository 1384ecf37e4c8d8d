"""The parts of a recovery: what may be tuned and where it lies, the tuning, and the artifact with other values."""

from dataclasses import replace

import pytest
import torch
from checkpoints import contents, lossless_tensors, normal, rewrite_index, same_bits, save
from torch import nn

import nwc_core
from nwc_core.errors import FormatError, UsageError
from nwc_core.store import open_store
from nwc_workflows.compress import compress, weight_nbytes
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.recovery.free import free_tensors
from nwc_workflows.recovery.objective import Objective
from nwc_workflows.recovery.placing import place
from nwc_workflows.recovery.recover import Recovery, _Values
from nwc_workflows.recovery.rewrite import rewrite, tuned_fingerprint
from nwc_workflows.recovery.tuning import tune
from nwc_workflows.sources import open_checkpoint
from nwc_workflows.verify import verify

pytestmark = pytest.mark.usefixtures("one_thread")


# --- what may be tuned


def test_only_floating_tensors_that_no_weight_was_lost_of_are_free(codec, model):
    free = {tensor.name for tensor in free_tensors(make_plan(model, codec, CompressOptions(bits=10.0)))}
    assert {"norm.weight", "scalar", "small", "w#0", "dtype.BF16", "dtype.F64"} <= free
    assert not free & {"encoder.0.weight", "position_ids", "fp8", "mask", "empty", "dtype.I8", "dtype.F8_E4M3"}


def test_a_model_of_matrices_alone_has_nothing_to_tune(codec, tmp_path):
    source = save(tmp_path / "model.safetensors", {"a": normal(128, 128)})
    plan = make_plan(source, codec, CompressOptions(bits=40.0))
    with pytest.raises(UsageError, match="found no tensor of floating-point numbers that is stored without loss"):
        Recovery(1.0, None, None, None).reserve(plan)


def test_bytes_that_tuned_values_take_more_are_set_aside(codec, tmp_path):
    tensors = {"a": normal(256, 256), "norm": torch.ones(10_000)}
    plan = make_plan(save(tmp_path / "m.safetensors", tensors), codec, CompressOptions(bits=12.0))
    reserved = Recovery(1.0, None, None, None).reserve(plan)
    assert 39_900 < reserved.reserved_nbytes < 40_100  # ones take next to nothing, other numbers four bytes each
    assert 8 * (plan.predicted_nbytes - reserved.predicted_nbytes) == pytest.approx(0, abs=16)
    assert plan.bits - reserved.bits == pytest.approx(8 * reserved.reserved_nbytes / 256**2)


@pytest.mark.usefixtures("ray_cluster")
def test_norms_that_were_all_alike_stay_within_it(codec, tmp_path):
    """Their digests stood in the index as one."""
    norms = {f"norm.{number}": torch.ones(64) for number in range(120)}
    source = save(tmp_path / "m.safetensors", {"a": normal(256, 256), **norms})
    plan = Recovery(1.0, None, None, None).reserve(make_plan(source, codec, CompressOptions(bits=16.0)))
    store = open_store(tmp_path / "out", "destination")
    made = compress(plan, store)
    tuned = {name: normal(64, seed=seed) for seed, name in enumerate(norms)}
    assert rewrite(store, tuned, lambda new: False) is None
    assert same_bits(nwc_core.load(tmp_path / "out")["norm.7"], torch.ones(64))
    grown = weight_nbytes(rewrite(store, tuned)) - made.weight_nbytes
    assert 0.8 * plan.reserved_nbytes < grown <= plan.reserved_nbytes
    assert same_bits(nwc_core.load(tmp_path / "out")["norm.7"], tuned["norm.7"])


def test_what_is_not_tuned_sets_no_scale():
    """A mask's -10^9; and what float32 does not hold is no number here."""
    state = {
        "norm": torch.ones(8),
        "bias": torch.zeros(4),
        "mask": torch.tensor(-1e9),
        "far": torch.tensor(1e300).double(),
    }
    values = _Values(list(state), state)
    assert values.names == ["norm", "bias", "mask"]
    scale = values.scale(torch.arange(13) < 12)
    assert torch.equal(scale[:8], torch.ones(8))
    assert 0.05 < float(scale[8]) < 0.1


# --- where it lies


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.joined = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return self.norm(self.linear(x))


SHAPES = {"lin.w": (6, 4), "lin.b": (6,), "n.w": (6,), "n.b": (6,), "a": (5,), "b": (3,)}
FREE = ["lin.b", "n.w", "a", "b"]


def load(state):
    """Renames, joins two tensors, and keeps one of them as its difference from 1."""
    net = Net()
    net.load_state_dict(
        {
            "linear.weight": state["lin.w"],
            "linear.bias": state["lin.b"],
            "norm.weight": state["n.w"] + 1,
            "norm.bias": state["n.b"],
            "joined": torch.cat([state["b"], state["a"]]),
        }
    )
    return net.requires_grad_(False)


def test_elements_are_found_however_a_library_renames_and_joins():
    places = place(SHAPES, FREE, load)
    assert places["linear.bias"].tolist() == list(range(6))
    assert places["joined"].tolist() == [17, 18, 19, 12, 13, 14, 15, 16]
    assert not {"linear.weight", "norm.bias"} & places.keys()


class Lines:
    """Rows of numbers as data; the distance is squared."""

    unit, count = "squared error", 10

    def output(self, call, number):
        return call(torch.randn(3, 4, generator=torch.Generator().manual_seed(number)))

    def distance(self, original, other):
        return (original - other).square().sum()


@pytest.fixture
def objective():
    """(objective of a network whose biases were lost, their values)."""
    state = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in SHAPES.items()}
    original, values = load(state), torch.cat([torch.zeros(6), *(state[name] for name in FREE[1:])])
    compressed = load({**state, "lin.b": torch.zeros(6)})
    return Objective(original, compressed, place(SHAPES, FREE, load), values, Lines()), values


def test_a_parameter_with_changed_values_is_left_alone(objective):
    """norm.weight holds 1 more than its tensor."""
    assert objective[0].reached.tolist() == [True] * 6 + [False] * 6 + [True] * 8


def test_some_batches_are_held_out(objective):
    assert (list(objective[0].held_out), list(objective[0].training)) == ([0, 5], [1, 2, 3, 4, 6, 7, 8, 9])


# --- tuning


def run(objective, start, stored=lambda values: values, **limits):
    return tune(objective, start, torch.ones_like(start), stored, **{"seconds": 600, **limits})


def test_what_was_lost_is_recovered_and_what_plays_no_part_keeps_its_bits(objective):
    found, values = objective
    tuned = run(found, values, steps=400)
    assert tuned.before == pytest.approx(found.held_out_loss(values))
    assert tuned.after == pytest.approx(found.held_out_loss(tuned.values))
    assert tuned.after < 0.1 * tuned.before
    assert torch.equal(tuned.values[6:], values[6:])
    assert tuned.steps <= 400


def test_the_same_steps_give_the_same_values(objective):
    assert torch.equal(run(*objective, steps=40).values, run(*objective, steps=40).values)


def test_values_are_judged_as_they_will_be_stored(objective):
    found, values = objective
    tuned = run(found, values, lambda v: v.bfloat16().float(), steps=200)
    assert torch.equal(tuned.values[:6], tuned.values[:6].bfloat16().float())
    assert tuned.after == pytest.approx(found.held_out_loss(tuned.values))


def test_where_storing_undoes_every_step_nothing_changes(objective):
    found, values = objective
    tuned = run(found, values, lambda v: values)
    assert tuned.values is values
    assert tuned.after == tuned.before


class Bowl:
    """A loss whose least the values have reached already, with a gradient that says otherwise."""

    training = range(4)

    def __init__(self, worst):
        self.worst = worst

    def loss(self, values, number):
        return values.sum()

    def held_out_loss(self, values):
        return 0.5 if bool((values == 1).all()) else self.worst


@pytest.mark.parametrize("worst", [1.0, float("nan"), float("inf")])
def test_where_no_rate_helps_it_ends_by_itself_with_the_values_from_before(worst):
    tuned = run(Bowl(worst), torch.ones(3))
    assert torch.equal(tuned.values, torch.ones(3))
    assert tuned.before == tuned.after == 0.5
    assert tuned.steps > 4


def test_no_time_no_step(objective):
    seen = []
    assert run(*objective, seconds=0, advance=seen.append).steps == 0
    assert all(seconds >= 0 for seconds in seen)


# --- the artifact with other values


def tuned_values():
    tensors = lossless_tensors()
    norm = tensors["norm.weight"].clone()
    norm[3] += 0.25
    return {"norm.weight": norm, "scalar": torch.tensor(1.75), "small": tensors["small"]}


@pytest.fixture
def tuned(own_artifact):
    before = contents(own_artifact)
    rewrite(open_store(own_artifact), tuned_values())
    return own_artifact, before


def test_only_the_tensors_named_change(tuned, artifact):
    folder, before = tuned
    old, new = nwc_core.load(artifact), nwc_core.load(folder)
    assert list(old) == list(new)
    changed = {name for name in old if not same_bits(old[name], new[name])}
    assert changed == {"norm.weight", "scalar"}
    assert all(same_bits(new[name], value) for name, value in tuned_values().items())
    kept = {name for name in contents(folder) if before.get(name) == contents(folder)[name]}
    assert len(before) > len(kept) == len(before) - 3  # index, manifest, and the one payload with these tensors
    assert len(contents(folder)) == len(before)  # the old ones are gone


def test_it_verifies_and_says_which_tensors_are_the_sources_no_more(tuned, model, nwc):
    folder, _ = tuned
    with nwc_core.open(folder) as artifact:
        assert verify(artifact, open_checkpoint(model)) == []
        assert [row.tensor for row in artifact.index if row.tuned] == ["norm.weight", "scalar"]
        errors = {row.tensor: row.mse for row in artifact.index if row.tuned}
    assert errors == pytest.approx({"norm.weight": 0.25**2 / 384, "scalar": 0.25**2})
    code, _, err = nwc("verify", folder, "--source", model)
    assert code == 0
    assert "2 tensors (norm.weight, scalar) were tuned after compression: they differ from the source as much" in err


def test_a_tuned_tensor_that_differs_otherwise_than_recorded_is_found(tuned, model):
    folder, _ = tuned
    rewrite_index(folder, lambda rows: [replace(row, mse=2 * row.mse) if row.tuned else row for row in rows])
    with nwc_core.open(folder) as artifact:
        problems = verify(artifact, open_checkpoint(model))
    assert [problem.where for problem in problems] == ["norm.weight", "scalar"]
    assert "mean squared error" in str(problems[0].error)


def test_whole_numbers_cannot_have_been_tuned(tuned):
    folder, _ = tuned
    change = {"position_ids": 0.5}
    rewrite_index(folder, lambda rows: [replace(row, mse=change.get(row.tensor, row.mse)) for row in rows])
    with pytest.raises(FormatError, match=r"position_ids.*mse"):
        nwc_core.open(folder)


def test_the_fingerprint_tells_of_the_values(tuned, artifact):
    old, new = nwc_core.open(artifact), nwc_core.open(tuned[0])
    assert new.manifest.fingerprint == tuned_fingerprint(old.manifest.fingerprint, new.index)
    assert new.manifest.fingerprint != old.manifest.fingerprint
    assert tuned_fingerprint("x", old.index) == "x"
