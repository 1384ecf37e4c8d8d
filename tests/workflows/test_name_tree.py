"""Names as a tree: what is alike shares a line, nothing is lost, and hostile names do no harm."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from nwc_workflows.name_tree import build_tree
from nwc_workflows.tree_text import tree_lines


def lines(names, kind=lambda name: 0, depth=None):
    tree = build_tree([(name, name) for name in names], kind)
    return [line.guides + line.label for line in tree_lines(tree, depth)]


def test_alike_layers_are_one_line():
    names = [f"model.layers.{i}.{part}" for i in range(12) for part in ("attn.q", "attn.k", "mlp")]
    assert lines(["head", *names, "norm"]) == [
        "head",
        "model.layers.0…11",
        "├─ attn",
        "│  ├─ q",
        "│  └─ k",
        "└─ mlp",
        "norm",
    ]


def test_layers_that_differ_are_not():
    names = [f"layers.{i}.w" for i in range(10)]
    assert lines(names, lambda name: name in ("layers.0.w", "layers.5.w")) == [
        "layers",
        "├─ 0, 5.w",
        "└─ 1…4, 6…9.w",
    ]
    assert lines([*names, "layers.3.extra"]) == ["layers", "├─ 0…2, 4…9.w", "└─ 3", "   ├─ w", "   └─ extra"]
    assert lines(names, lambda name: int(name.split(".")[1]) % 2)[1:] == ["├─ 0, 2, … 8.w", "└─ 1, 3, … 9.w"]


def test_experts_fold_inside_of_layers_that_fold():
    names = [f"layers.{i}.experts.{j}.w{k}" for i in range(4) for j in range(8) for k in range(2)]
    tree = build_tree([(name, name) for name in names], lambda name: 0)
    assert [line.guides + line.label for line in tree_lines(tree)] == ["layers.0…3.experts.0…7", "├─ w0", "└─ w1"]
    assert sorted(tree.below()) == sorted(names)
    assert {len(child.items) for child in tree.children[0].children} == {32}


def test_the_order_of_a_layers_tensors_does_not_keep_it_apart():
    """A layer whose tensors are spread over two shards has them in another order."""
    assert lines(["a.0.x", "a.0.y", "a.1.y", "a.1.x"]) == ["a.0…1", "├─ x", "└─ y"]


def test_a_name_that_is_a_prefix_too_is_both():
    assert lines(["scalar", "scalar.int", "scalar.int.more"]) == ["scalar", "└─ int", "   └─ more"]


def test_depth_cuts():
    names = ["a.b.c", "a.b.d", "a.e", "f"]
    assert lines(names, depth=1) == ["a", "f"]
    assert lines(names, depth=2) == ["a", "├─ b", "└─ e", "f"]
    tree = build_tree([(name, name) for name in names], lambda name: 0)
    assert [(line.label, line.sums_up) for line in tree_lines(tree, 2)] == [
        ("a", True),
        ("b", True),
        ("e", False),
        ("f", False),
    ]


def test_hostile_names():
    assert lines(["a\nb\x1b[2J.w", "", ".", "[red]x"]) == [r"'a\nb\x1b[2J.w'", "''", "└─ ''", "[red]x"]
    deep = ".".join(["x"] * 5 * sys.getrecursionlimit())
    assert len(lines([deep, f"{deep}.y"])) < 100
    digits = "9" * 10_000
    assert lines([f"a.{digits}", f"a.{digits}1"]) == ["a", f"├─ {digits}", f"└─ {digits}1"]


@given(st.lists(st.text("ab01.…", max_size=8), unique=True), st.integers(1, 3))
def test_nothing_is_lost(names, n_kinds):
    tree = build_tree([(name, name) for name in names], lambda name: len(name) % n_kinds)
    assert sorted(tree.below()) == sorted(names)
