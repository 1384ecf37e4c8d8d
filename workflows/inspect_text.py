"""What an artifact holds, for people: a tree of its tensors, or a list of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nwc_workflows.console import Output
from nwc_workflows.inspect import TensorSummary, Totals, totals
from nwc_workflows.name_tree import build_tree
from nwc_workflows.tree_text import Column, bar_text, print_tree, tree_lines
from nwc_workflows.wording import bytes_text, name_text

_COLUMNS = (
    Column("dtype", 7, right=False),
    Column("shape", 3, right=False),
    Column("coder", 6, right=False),
    Column("bits", 0),
    Column("rms error", 4),
    Column("bytes", 1),
    Column("share", 2),
    Column("", 5, right=False, style="cyan"),
)
REST = "(index, codec, …)"  # and manifest, and headers of payloads


def print_tensors(tensors: Sequence[TensorSummary], sizes: Mapping[str, int], depth: int | None) -> None:
    """Print the tree, with what is no tensor in the last line, so that the shares are those of all the bytes.

    Args:
        tensors: in stored order.
        sizes: of `artifact_nbytes`.
        depth: levels to show; None for all.
    """
    everything = max(1, sum(size for kind, size in sizes.items() if kind != "files"))
    tree = build_tree([(t.name, t) for t in tensors], _kind)
    rows = []
    for line in tree_lines(tree, depth):
        of_line = list(line.node.below()) if line.sums_up else line.node.items
        rows.append((line.guides, line.label, _cells(of_line, line.sums_up, everything)))
    rest = everything - sum(t.nbytes for t in tensors)
    rows.append(("", REST, ["", "", "", "", "", *_size_cells(rest, everything)]))
    print_tree(_COLUMNS, rows)


def print_list(output: Output, tensors: Sequence[TensorSummary], payload_nbytes: int) -> None:
    """Print one line for each tensor; shares are those of the payloads."""
    output.table(
        ["tensor", "dtype", "shape", "coder", "blocks", "bits/weight", "rms error", "bytes", "share"],
        [
            [
                *(name_text(t.name), t.dtype, shape_text(t.shape), _coder_text(t), t.blocks),
                f"{t.bits_per_weight:.3f}" if t.numel else "0",
                error_text(totals([t])),
                t.nbytes,
                f"{100 * t.nbytes / max(1, payload_nbytes):.1f} %",
            ]
            for t in tensors
        ],
    )


def _coder_text(tensor: TensorSummary) -> str:
    return "+".join(tensor.coders) if tensor.copy_of is None else f"as {name_text(tensor.copy_of)}"


def bits_text(of: Totals) -> str:
    """Bits per weight; empty without weights."""
    return f"{of.bits_per_weight:.3f}" if math.isfinite(of.bits_per_weight) else ""


def error_text(of: Totals) -> str:
    """The relative error in percent where it is known, else the absolute one."""
    return f"{of.rms_error:.3g}" if of.relative_error is None else f"{100 * of.relative_error:.3g} %"


def shape_text(shape: Sequence[int]) -> str:
    """384x1536, or "scalar"."""
    return "x".join(map(str, shape)) or "scalar"


def _kind(tensor: TensorSummary) -> tuple[object, ...]:
    # Which of the lossless coders is the smaller is chance: it would keep layers apart that are alike.
    return tensor.dtype, tensor.shape, "nwc" in tensor.coders, tensor.copy_of is None


def _cells(tensors: Sequence[TensorSummary], sums_up: bool, everything: int) -> list[str]:
    of = totals(tensors)
    dtypes = "+".join(sorted({t.dtype for t in tensors}))
    coders = "+".join(sorted({coder for t in tensors for coder in t.coders}))
    what = f"{of.tensors} tensor{'s' if of.tensors != 1 else ''}" if sums_up else shape_text(tensors[0].shape)
    return [
        *("" if sums_up else dtypes, what, "" if sums_up else coders),
        *(bits_text(of), error_text(of), *_size_cells(of.nbytes, everything)),
    ]


def _size_cells(nbytes: int, everything: int) -> list[str]:
    share = nbytes / everything
    return [bytes_text(nbytes), f"{100 * share:.1f} %", bar_text(share)]
