"""Which layer a tensor belongs to: names of many kinds of models, and names of strangers."""

from __future__ import annotations

import time

import pytest

from nwc_workflows.report.layers import grids


def found(names):
    """(prefix, rows, columns, what is in which cell) of each grid."""
    return [
        (grid.prefix, grid.rows, grid.columns, {at: list(of) for at, of in grid.cells.items()})
        for grid in grids(names, names, lambda name: 1.0)
    ]


def test_numbered_layers():
    names = [f"model.layers.{i}.{kind}.weight" for i in (0, 1, 10, 2) for kind in ("attn.q", "mlp.up")]
    ((prefix, rows, columns, cells),) = found(["embed.weight", *names, "head.weight"])
    assert (prefix, rows, columns) == ("model.layers.", ("0", "1", "2", "10"), ("attn.q.weight", "mlp.up.weight"))
    assert cells[3, 1] == ["model.layers.10.mlp.up.weight"]
    assert len(cells) == 8


def test_stages_of_a_network_are_rows_of_one_map():
    names = [f"layer{s}.{b}.conv{c}.weight" for s in (1, 2, 3) for b in (0, 1) for c in (1, 2)]
    names += ["layer2.0.downsample.0.weight", "layer3.0.downsample.0.weight", "conv1.weight", "fc.weight"]
    ((prefix, rows, columns, cells),) = found(names)
    assert prefix == ""
    assert rows == ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1")
    assert columns == ("conv1.weight", "conv2.weight", "downsample.0.weight")
    assert (0, 2) not in cells
    assert cells[2, 2] == ["layer2.0.downsample.0.weight"]


def test_experts_share_a_cell():
    names = [f"layers.{i}.experts.{e}.w{w}.weight" for i in range(4) for e in range(64) for w in (1, 2, 3)]
    ((_, rows, columns, cells),) = found(names)
    assert rows == ("0", "1", "2", "3")
    assert columns == tuple(f"experts.*.w{w}.weight" for w in (1, 2, 3))
    assert {len(of) for of in cells.values()} == {64}


def test_numbers_at_the_ends_of_words():
    names = [f"{7 + n}:net/block_{n}/dense_{5 * n}/w" for n in range(1, 6)]
    names += [f"{90 + n}:net/block_{n}/norm_{n}/beta" for n in range(1, 6)]
    ((prefix, rows, columns, _),) = found(names)
    assert prefix == "*:net/block_"
    assert rows == ("1", "2", "3", "4", "5")
    assert columns == ("dense_*/w", "norm_*/beta")
    ((prefix, rows, columns, _),) = found([f"net0_conv{n}_{k}" for n in range(12) for k in ("bias", "weight")])
    assert (prefix, len(rows), columns) == ("net0_conv", 12, ("_bias", "_weight"))


def test_parts_without_a_kind_in_common_have_maps_of_their_own():
    names = [f"text.{i}.{k}" for i in range(4) for k in ("q", "k")] + [
        f"image.{i}.{k}" for i in range(4) for k in ("conv", "bn")
    ]
    assert [(prefix, columns) for prefix, _, columns, _ in found(names)] == [
        ("text.", ("q", "k")),
        ("image.", ("conv", "bn")),
    ]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["", "weight", "conv1.weight"],
        ["layers.0.weight"],
        ["layers.0.weight", "layers.1.weight"],  # a list says it better
        ["a.1.b", "a.٣.b", "a.99999999999999999999.b"],
    ],
)
def test_names_without_layers_have_no_map(names):
    assert found(names) == []


def test_every_tensor_of_a_layer_is_in_one_cell_and_thousands_take_no_time():
    names = [f"m.{i}.{'x' * (j % 7)}{j}.{j % 5}.w{i * j}" for i in range(100) for j in range(100)]
    started = time.perf_counter()
    cells = [name for *_, of in found(names) for in_cell in of.values() for name in in_cell]
    assert len(set(cells)) == len(cells)
    assert set(cells) <= set(names)
    assert time.perf_counter() - started < 5


def test_hostile_numbers_of_numbers():
    started = time.perf_counter()
    found([".".join(str(n) for n in range(2000)) + f".{i}" for i in range(50)])
    assert time.perf_counter() - started < 10
