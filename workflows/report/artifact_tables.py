"""Tables of a report of an artifact: its tensors, how they are coded, what its bytes are, what was left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nwc_core.artifact.manifest import Skipped
from nwc_workflows.inspect import TensorSummary, Totals, totals
from nwc_workflows.inspect_text import shape_text
from nwc_workflows.report.content import Cell, Column, Table, bars, number
from nwc_workflows.wording import bytes_text, name_text

_MOST = 1e308  # what an infinite error is sorted by
_CODERS = {
    "nwc": "lossy: learned transform, trellis, entropy model",
    "nwc-delta": "lossy: the difference to the base",
    "exact-delta": "what the base has, and what differs from it, without further loss",
    "float": "without loss: entropy tables for floats",
    "zstd": "without loss: Zstandard",
    "raw": "without loss: as it is",
    "copy": "the bytes of another tensor, which is the same",
}
_OBJECTS = {
    "payloads": "coded tensors",
    "index": "index of all blocks",
    "codec": "the codec itself",
    "manifest": "manifest",
    "files": "other files of the checkpoint",
}


def coders_table(tensors: Sequence[TensorSummary], everything: int) -> Table:
    """How tensors are coded; `everything` is all bytes that hold weights."""
    groups: dict[str, list[TensorSummary]] = {}
    for tensor in tensors:
        groups.setdefault("copy" if tensor.copy_of else "+".join(tensor.coders), []).append(tensor)
    found = sorted(((coder, totals(of)) for coder, of in groups.items()), key=lambda group: -group[1].nbytes)
    lengths = bars([of.nbytes for _, of in found])
    rows = tuple(
        (
            Cell(coder),
            Cell(_coder_text(coder, of)),
            number(of.tensors, ",d"),
            number(of.numel, ",d"),
            number(of.bits_per_weight if of.numel else None, ".3f"),
            Cell(bytes_text(of.nbytes), of.nbytes),
            Cell(f"{100 * of.nbytes / max(1, everything):.1f} %", of.nbytes, bar),
        )
        for (coder, of), bar in zip(found, lengths, strict=True)
    )
    columns = (
        *(Column("Coder", code=True), Column("What it does", words=True)),
        *(Column(label, number=True) for label in ("Tensors", "Weights", "Bits", "Bytes", "Share of weights’ bytes")),
    )
    return Table("coders", "How the tensors are coded", columns, rows, sortable=False)


def _coder_text(coder: str, of: Totals) -> str:
    text = _CODERS.get(coder, "several, by block")
    # Bounded relative errors, and tuning, change weights before a lossless coder gets them.
    return text.replace("without loss:", "changed, then without loss:") if of.rms_error else text


def objects_table(sizes: Mapping[str, int]) -> Table:
    """What takes how many bytes; sizes as `artifact_nbytes` gives them."""
    lengths = bars(list(sizes.values()))
    rows = tuple(
        (
            Cell(_OBJECTS[kind]),
            Cell(bytes_text(size), size),
            Cell(f"{100 * size / sum(sizes.values()):.1f} %", size, bar),
        )
        for (kind, size), bar in zip(sizes.items(), lengths, strict=True)
        if size
    )
    columns = (Column("What"), Column("Bytes", number=True), Column("Share", number=True))
    return Table("objects", "What takes how many bytes", columns, rows, sortable=False)


def skipped_table(found: Sequence[Skipped]) -> Table | None:
    """What was left out; None for nothing."""
    if not found:
        return None
    rows = tuple((Cell(name_text(s.path)), Cell(bytes_text(s.size), s.size), Cell(s.reason)) for s in found)
    columns = (Column("File", code=True), Column("Bytes", number=True), Column("Why", words=True))
    return Table("skipped", "Files of the checkpoint that the artifact does not hold", columns, rows)


def _coder(tensor: TensorSummary) -> str:
    return "+".join(tensor.coders) if tensor.copy_of is None else f"as {name_text(tensor.copy_of)}"


def tensors_table(tensors: Sequence[TensorSummary], everything: int, relative: bool) -> Table:
    """All tensors; `relative` if all that have an error have a `power`."""
    columns = (
        *(Column("Tensor", code=True), Column("Shape", code=True), Column("Type"), Column("Coder")),
        *(Column("Weights", number=True), Column("Bits", number=True, note="per weight"), Column("Bytes", number=True)),
        *(Column("Share", number=True, note="of all bytes that hold weights"),),
        Column("Error", number=True, note=_ERROR_NOTES[relative]),
    )
    lengths = bars([t.nbytes for t in tensors])
    rows = tuple(
        (
            *(Cell(name_text(t.name)), Cell(shape_text(t.shape)), Cell(t.dtype), Cell(_coder(t))),
            *(number(t.numel, ",d"), number(t.bits_per_weight if t.numel else None, ".3f")),
            *(
                Cell(bytes_text(t.nbytes), t.nbytes),
                Cell(f"{100 * t.nbytes / max(1, everything):.2f} %", t.nbytes, bar),
            ),
            _error(t, relative),
        )
        for t, bar in zip(tensors, lengths, strict=True)
    )
    return Table("tensors", "All tensors", columns, rows, search="Find tensors")


_ERROR_NOTES = {True: "root mean square, relative to that of the weights", False: "root mean square"}


def _error(tensor: TensorSummary, relative: bool) -> Cell:
    if not tensor.mse:
        return Cell("exact", 0.0, tone="quiet")
    of = totals([tensor])
    error = of.relative_error if relative else of.rms_error
    if error is None or not math.isfinite(error):
        return Cell("∞", _MOST)
    return Cell(f"{100 * error:#.3g}".rstrip(".") + " %", error) if relative else Cell(f"{error:.3g}", error)
