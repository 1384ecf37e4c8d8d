"""Reading a calibration: the record once, then of each weight that is asked for its own bytes and no others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError, IntegrityError, NotFoundError
from nwc_core.matrices import Layout
from nwc_core.store import Store, open_store
from nwc_core.strict_json import shown
from nwc_workflows.calibration.record import MAX_RECORD_NBYTES, RECORD_KEY, ArrayRef, CalibrationRecord, WeightRecord
from nwc_workflows.calibration.triangles import triangle_size, unpack

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WeightStatistics:
    """What an error E [k, m, n] of a weight costs: 1/2 * sum over k and i of rows[k, i] * e_ki H_k e_ki'.

    Attributes:
        layout: how the tensor is seen as k matrices of m rows and n columns.
        hessian: float32 [k, n, n], symmetric, of mean diagonal 1; None if only rows are known.
        rows: float32 [k, m], not negative; None without gradients.
        positions: int64 [k], how often the data used each matrix.
    """

    layout: Layout
    hessian: Floats | None
    rows: Floats | None
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """An open calibration. It can be pickled; a worker reads the arrays that it needs by itself.

    Attributes:
        store: where it lies.
        record: its calibration.json.
    """

    store: Store
    record: CalibrationRecord

    @classmethod
    def open(cls, source: str | Path | Store) -> Calibration:
        """Open the calibration at a path, a URI or in a store.

        Raises:
            NotFoundError: there is none.
            FormatError, IntegrityError, VersionError: its record is damaged, or not one.
        """
        store = open_store(source, "source")
        where = f"{store.uri}/{RECORD_KEY}"
        try:
            size = store.size(RECORD_KEY)
        except NotFoundError as error:
            reason = f"{error.reason}: no calibration is there, or one that was not finished; nwc calibrate makes one"
            raise NotFoundError(error.key, reason) from None
        if size > MAX_RECORD_NBYTES:
            raise FormatError(where, f"{size} bytes", f"at most {MAX_RECORD_NBYTES}")
        return cls(store, CalibrationRecord.from_bytes(store.get_range(RECORD_KEY, 0, size), where))

    @property
    def names(self) -> tuple[str, ...]:
        """Weights that have statistics, as the checkpoint names its tensors."""
        return tuple(weight.name for weight in self.record.weights)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of model, data and options."""
        return self.record.fingerprint

    @property
    def input_only(self) -> bool:
        """Whether no gradients were measured: the Hessians have no scale, and there are no rows."""
        return self.record.input_only

    def get(self, name: str) -> WeightStatistics | None:
        """The statistics of a weight; None if there are none.

        Raises:
            IntegrityError: bytes are not those that were written.
            FormatError: they are no numbers that a Hessian or a row can have.
            StoreError: they cannot be read.
        """
        weight = self._weights.get(name)
        if weight is None:
            return None
        k, m, n = weight.matrix_shape
        hessian = rows = None
        if weight.hessian is not None:
            packed = self._read(weight.hessian, weight).reshape(k, triangle_size(n))
            hessian = np.empty((k, n, n), np.float32)
            for number, triangle in enumerate(packed):
                hessian[number] = unpack(triangle, n)
        if weight.rows is not None:
            rows = self._read(weight.rows, weight).reshape(k, m)
            if rows.size and rows.min() < 0:
                raise FormatError(self._where(weight, weight.rows), f"a row weight of {rows.min()}", "none below 0")
        return WeightStatistics(weight.layout, hessian, rows, np.array(weight.positions, np.int64))

    @cached_property
    def _weights(self) -> dict[str, WeightRecord]:
        return {weight.name: weight for weight in self.record.weights}

    def _read(self, ref: ArrayRef, weight: WeightRecord) -> Floats:
        data = self.store.get_range(ref.object, ref.offset, ref.offset + ref.length)
        found = hashlib.sha256(data).hexdigest()
        if found != ref.sha256:
            raise IntegrityError(self._where(weight, ref), f"SHA-256 {found}", ref.sha256)
        values = np.frombuffer(data, "<f4")
        if not np.isfinite(values).all():
            raise FormatError(self._where(weight, ref), "NaN or infinity", "finite numbers")
        return values

    def _where(self, weight: WeightRecord, ref: ArrayRef) -> str:
        return f"{self.store.uri}/{ref.object}: weight {shown(weight.name)}"
