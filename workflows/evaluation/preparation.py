"""From pictures to a classifier's input: by the model's own image processor, or by the mean and std of its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nwc_core.errors import FormatError
from nwc_core.strict_json import shown
from nwc_workflows.evaluation.images import Picture
from nwc_workflows.evaluation.models import quiet_transformers
from nwc_workflows.evaluation.stored import StoredModel

if TYPE_CHECKING:
    import torch

_PROCESSOR = "preprocessor_config.json"


def preparation(settings: StoredModel, by_factory: bool) -> Callable[[list[Picture]], torch.Tensor]:
    """A function from pictures [height, width, 3] to float32 [images, 3, height, width].

    With a preprocessor_config.json transformers' image processor does it. Without, and only for a model made by a
    factory, it is (x / 255 - mean) / std with `mean` and `std` of config.json, 0 and 1 if they are not there.

    Raises:
        FormatError: no image processor, or a mean or std that is not three numbers.
    """
    if _PROCESSOR in settings.files:
        return _processor(settings)
    if not by_factory:
        wanted = "one, which says how images become the model's input, or --factory for a model unknown to transformers"
        raise FormatError(settings.uri, f"no {_PROCESSOR}", wanted)
    mean, std = _three(settings, "mean", 0.0), _three(settings, "std", 1.0)

    def prepare(pictures: list[Picture]) -> torch.Tensor:
        import torch

        sizes = {picture.shape for picture in pictures}
        if len(sizes) > 1:
            raise FormatError("the images", f"several sizes: {shown(sorted(sizes))}", f"one, or a {_PROCESSOR}")
        scaled = (np.stack(pictures).astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))

    return prepare


def _processor(settings: StoredModel) -> Callable[[list[Picture]], torch.Tensor]:
    with quiet_transformers(settings.uri), settings.folder() as folder:
        from transformers import AutoImageProcessor

        open_processor: Any = AutoImageProcessor.from_pretrained
        processor = open_processor(folder, local_files_only=True, trust_remote_code=False)

    def prepare(pictures: list[Picture]) -> torch.Tensor:
        with quiet_transformers(settings.uri):
            made: torch.Tensor = processor(images=pictures, return_tensors="pt")["pixel_values"]
        return made

    return prepare


def _three(settings: StoredModel, key: str, default: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    value = (settings.config or {}).get(key, [default] * 3)
    if not (isinstance(value, list) and len(value) == 3 and all(isinstance(x, int | float) for x in value)):
        raise FormatError(f"{settings.uri}: config.json: {key}", shown(value), "three numbers")
    return np.array(value, np.float32)
