"""What `nwc calibrate` makes of the model: found in a folder or made there, and cut to the tensors of a scope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nwc_core.errors import UsageError
from nwc_core.store import open_store
from nwc_workflows.calibrate import calibrate
from nwc_workflows.calibration.preparation import CalibrateOptions, prepare
from nwc_workflows.calibration.reading import Calibration
from nwc_workflows.calibration.source import state_digest
from nwc_workflows.calibration_match import check_matches
from nwc_workflows.sources import open_checkpoint

if TYPE_CHECKING:
    import torch

# Opens the statistics, or makes them in the folder, which is not there for longer than the benchmark runs.
Origin = Callable[[Path], Calibration]


@dataclass(frozen=True)
class Made:
    """Statistics that are still to be made, with the defaults of `nwc calibrate`.

    Attributes:
        model: path or URI of the checkpoint.
        options: data, and how the model is run on it.
    """

    model: str
    options: CalibrateOptions

    def __call__(self, folder: Path) -> Calibration:
        """See `nwc_workflows.calibrate.calibrate` for errors."""
        return calibrate(prepare(self.model, self.options), open_store(folder / "calibration")).calibration


@dataclass(frozen=True)
class Found:
    """Statistics that are there."""

    calibration: Calibration

    @classmethod
    def open(cls, uri: str, model: str, test_sha256: str) -> Found:
        """Open and check a calibration.

        Args:
            uri: of the calibration.
            model: path or URI of the checkpoint that it must be of.
            test_sha256: digest of the data that methods are compared on.

        Raises:
            UsageError: it was made on that very data.
            FormatError: it is another model's; see also `Calibration.open`.
        """
        calibration = Calibration.open(uri)
        if calibration.record.data.get("sha256") == test_sha256:
            raise UsageError(f"--calibration: found {uri}, made on the data of --data; wanted one made on other data")
        check_matches(calibration, open_checkpoint(model))
        return cls(calibration)

    def __call__(self, folder: Path) -> Calibration:
        return self.calibration


def cut_statistics(calibration: Calibration, state: Mapping[str, torch.Tensor]) -> Calibration:
    """The part of a calibration that is about these tensors, as if they were a whole checkpoint."""
    record = calibration.record
    weights = [weight for weight in record.weights if weight.name in state]
    return replace(calibration, record=record.model_copy(update={"model": state_digest(state), "weights": weights}))
