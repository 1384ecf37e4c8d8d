"""calibration.json: the root of a calibration. Its presence is the commit; it says what lies where.

Like an artifact's manifest it depends on nothing but its input, its JSON is canonical, and it carries its own checksum.
It is hostile until checked: `from_bytes` compares everything in it that could contradict itself.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from nwc_core.artifact.objects import Record, RelativeKey, Sha256Hex, Size
from nwc_core.errors import FormatError
from nwc_core.matrices import Layout
from nwc_core.sealed_json import seal, unseal
from nwc_core.strict_json import shown
from nwc_workflows.calibration.triangles import triangle_size

RECORD_KEY: Final = "calibration.json"
FORMAT: Final = "nwc-calibration"
VERSION: Final = 1
# About 800 bytes a weight: 80,000 of them, far more than the largest mixture of experts has.
MAX_RECORD_NBYTES = 64 << 20
MAX_RANK = 8
FLOAT_NBYTES = 4

Share = Annotated[float, Field(ge=0, le=1)]


class ArrayRef(Record):
    """A float32 array, little-endian: `length` bytes at `offset` of an object, and their SHA-256."""

    object: RelativeKey
    offset: Size
    length: Size
    sha256: Sha256Hex


class WeightRecord(Record):
    """What is known about one weight, a tensor of the checkpoint.

    Attributes:
        name, shape: the tensor's own.
        order, row_axes, batch_axes, kernel_axes: the layout, see `nwc_core.matrices.Layout`.
        positions: for each matrix of the stack, how often the data used it.
        shrinkage: for each matrix, how much of its Hessian is prior (0: all measured).
        row_shrinkage: for each matrix, how much of its row weights is their mean.
        condition: of each matrix's Hessian: the largest element of the diagonal over the least, infinite if that is 0.
        energy: of each matrix: the mean of the squared gradient, summed over all its weights; the loss is half of this
            for an error of 1 in every weight, independent of each other. 0 without gradients.
        hessian: float32 [matrices, n(n+1)/2], packed upper triangles; None if only rows are known.
        rows: float32 [matrices, m]; None without gradients.
    """

    name: str
    shape: list[Size]
    order: list[Size]
    batch_axes: Size
    row_axes: Size
    kernel_axes: Size
    positions: list[Size]
    shrinkage: list[Share]
    row_shrinkage: list[Share]
    condition: list[float | None]
    energy: list[Annotated[float, Field(ge=0)]]
    hessian: ArrayRef | None
    rows: ArrayRef | None

    @property
    def layout(self) -> Layout:
        return Layout(tuple(self.order), self.batch_axes, self.row_axes, self.kernel_axes)

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(matrices k, rows m, columns n)."""
        return self.layout.matrix_shape(tuple(self.shape))


class Unreached(Record):
    """A weight without statistics, and why."""

    name: str
    reason: str


class CalibrationRecord(Record):
    """All of calibration.json except its checksum.

    Attributes:
        kind: of the model: language, seq2seq, encoder, classifier.
        input_only: no gradients: Hessians are of the inputs, and no loss is absolute.
        model: SHA-256 (hex) of the model's weights.
        data: description of the data, digest included.
        options: that determine the statistics.
        weights: in the order of the checkpoint.
        unreached: weights of two dimensions or more that are not among them.
        objects: sizes in bytes of the objects that hold the arrays, by key.
        fingerprint: SHA-256 (hex) of everything that determines the statistics.
    """

    format: Literal["nwc-calibration"] = FORMAT
    version: Literal[1] = VERSION
    kind: str
    input_only: bool
    model: Sha256Hex
    data: dict[str, str | int]
    options: dict[str, str | int | None]
    weights: list[WeightRecord]
    unreached: list[Unreached]
    objects: dict[RelativeKey, Size]
    fingerprint: Sha256Hex

    def to_bytes(self) -> bytes:
        """Canonical JSON (sorted keys, one space of indent, ASCII, a final newline) with the checksum filled in.

        Raises:
            FormatError: the record contradicts itself, or is larger than a reader accepts.
        """
        _check(self, RECORD_KEY)
        data = seal(self.model_dump(mode="json"))
        if len(data) > MAX_RECORD_NBYTES:
            raise FormatError(RECORD_KEY, f"{len(data)} bytes", f"at most {MAX_RECORD_NBYTES}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes, where: str = RECORD_KEY) -> CalibrationRecord:
        """Read a record; `where` names it in errors.

        Raises:
            VersionError: written by a newer nwc.
            IntegrityError: the checksum does not match.
            FormatError: no record, or one that contradicts itself; names the key.
        """
        fields = unseal(data, where, FORMAT, VERSION)
        try:
            record = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise FormatError(f"{where}: key {key[:80]}", shown(first["input"]), first["msg"]) from None
        _check(record, where)
        return record


def _check(record: CalibrationRecord, where: str) -> None:
    """Raises FormatError where the record contradicts itself."""
    names: set[str] = set()
    for weight in record.weights:
        at = f"{where}: weight {shown(weight.name)}"
        if weight.name in names:
            raise FormatError(at, "the name twice", "every weight once")
        names.add(weight.name)
        _check_weight(weight, record, at)


def _check_weight(weight: WeightRecord, record: CalibrationRecord, at: str) -> None:
    rank = len(weight.shape)
    fits = weight.batch_axes + weight.row_axes <= rank and weight.kernel_axes <= rank
    if not 0 < rank <= MAX_RANK or sorted(weight.order) != list(range(rank)) or not fits:
        found = f"order {weight.order[:9]}, {weight.batch_axes} batch, {weight.row_axes} row axes"
        raise FormatError(at, found, f"a layout of shape {shown(weight.shape)}")
    if math.prod(size or 1 for size in weight.shape) >= 1 << 62:
        raise FormatError(at, f"shape {shown(weight.shape)}", "fewer than 2**62 elements")
    k, m, n = weight.matrix_shape
    for key in ("positions", "shrinkage", "row_shrinkage", "condition", "energy"):
        if len(getattr(weight, key)) != k:
            raise FormatError(f"{at}: {key}", f"{len(getattr(weight, key))} values", f"{k}, one for each matrix")
    for key, ref, count in (("hessian", weight.hessian, k * triangle_size(n)), ("rows", weight.rows, k * m)):
        if ref is None:
            continue
        if ref.length != FLOAT_NBYTES * count:
            raise FormatError(f"{at}: {key}", f"{ref.length} bytes", f"{FLOAT_NBYTES * count}, by the shape")
        size = record.objects.get(ref.object)
        if size is None or ref.offset + ref.length > size:
            found = f"bytes up to {ref.offset + ref.length} of {shown(ref.object)}"
            raise FormatError(f"{at}: {key}", found, "no object of that name" if size is None else f"at most {size}")
