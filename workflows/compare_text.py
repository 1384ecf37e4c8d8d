"""How two artifacts differ, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nwc_workflows.compare import Comparison, TensorPair
from nwc_workflows.console import Output
from nwc_workflows.inspect import TensorSummary, totals
from nwc_workflows.inspect_text import bits_text, error_text
from nwc_workflows.name_tree import build_tree
from nwc_workflows.tree_text import Column, print_tree, tree_lines
from nwc_workflows.wording import bytes_text, name_text

_COLUMNS = (
    Column("", 3, right=False),
    Column("bits", 0),
    Column("rms error", 4),
    Column("bytes", 2),
    Column("change", 1),
)


def print_pairs(pairs: Sequence[TensorPair], depth: int | None) -> None:
    """Print the tree of these tensors; numbered siblings that changed in the same way are one line."""
    rows = []
    for line in tree_lines(build_tree([(pair.name, pair) for pair in pairs], _kind), depth):
        of_line = list(line.node.below()) if line.sums_up else line.node.items
        rows.append((line.guides, line.label, _cells(of_line)))
    print_tree(_COLUMNS, rows)


def list_pairs(output: Output, pairs: Sequence[TensorPair]) -> None:
    """Print one line for each of these tensors."""
    headers = ["tensor", "status", *(column.header for column in _COLUMNS[1:])]
    output.table(headers, [[name_text(pair.name), *_cells([pair])] for pair in pairs])


def notes(found: Comparison) -> list[str]:
    """Options, codec and other files that differ, a line each."""
    lines = [f"{name_text(key)}: {_value(a)} -> {_value(b)}" for key, (a, b) in found.options.items()]
    if not found.same_codec:
        lines.append("codec: another one")
    return lines + [f"{name_text(path)}: {what}" for path, what in found.files.items()]


def comparison_data(found: Comparison) -> dict[str, Any]:
    """The comparison for JSON."""
    return {
        "tensors": [
            {"name": pair.name, "status": pair.status, "a": _side(pair.a), "b": _side(pair.b)} for pair in found.tensors
        ],
        "counts": found.counts(),
        "options": {key: {"a": a, "b": b} for key, (a, b) in found.options.items()},
        "same_codec": found.same_codec,
        "files": found.files,
    }


def _side(tensor: TensorSummary | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "coders": list(tensor.coders),
        "bytes": tensor.nbytes,
        "bits_per_weight": tensor.bits_per_weight,
        "mse": tensor.mse,
    }


def _kind(pair: TensorPair) -> tuple[object, ...]:
    sides = (None if side is None else (side.dtype, side.shape) for side in (pair.a, pair.b))
    return pair.status, *sides


def _cells(pairs: Sequence[TensorPair]) -> list[str]:
    statuses = list(dict.fromkeys(pair.status for pair in pairs))
    a = totals([pair.a for pair in pairs if pair.a is not None])
    b = totals([pair.b for pair in pairs if pair.b is not None])
    change = f"{100 * (b.nbytes / a.nbytes - 1):+.1f} %" if a.nbytes and b.nbytes else ""
    return [
        statuses[0] if len(statuses) == 1 else f"{len(pairs)} tensors",
        _both(bits_text(a), bits_text(b)),
        _both(error_text(a) if a.tensors else "", error_text(b) if b.tensors else ""),
        _both(bytes_text(a.nbytes) if a.tensors else "", bytes_text(b.nbytes) if b.tensors else ""),
        change,
    ]


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a or '-'} -> {b or '-'}"


def _value(value: object) -> str:
    return "-" if value is None else name_text(str(value))
