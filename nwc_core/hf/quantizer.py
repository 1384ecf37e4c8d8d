"""What transformers calls a quantizer: how a model whose config.json says `quant_method: nwc` gets its weights.

Two ways: decoded while it is loaded, after which the model is a plain one; or compressed in memory. Everything else
(names, prefixes, tied weights, merged experts, types, devices) is transformers' own loading.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import modeling_utils
from transformers.quantizers import auto
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from nwc_core.errors import FormatError, UsageError
from nwc_core.hf.compressed import CompressedTensor
from nwc_core.hf.weights import WEIGHTS_NAME, WeightFile, opening_artifacts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

QUANT_METHOD = "nwc"
_FORMAT, _VERSION = "nwc-artifact", 1


@register_quantization_config(QUANT_METHOD)
class NwcConfig(QuantizationConfigMixin):
    """`quantization_config` of an artifact.

    Args:
        compressed: whether large weights stay compressed in memory and are decoded whenever they are used.
        source: URI of the artifact; None for the folder that config.json was read from.

    Raises:
        FormatError: of another format or version than this package reads.
    """

    def __init__(
        self,
        compressed: bool = False,
        source: str | None = None,
        quant_method: str = QUANT_METHOD,
        format: str = _FORMAT,
        version: int = _VERSION,
    ) -> None:
        if (quant_method, format, version) != (QUANT_METHOD, _FORMAT, _VERSION):
            found = f"{quant_method}, {format}, version {version}"
            raise FormatError("quantization_config", found, f"{QUANT_METHOD}, {_FORMAT}, version {_VERSION}")
        self.quant_method: Any = quant_method  # declared as one of transformers' own
        self.format, self.version = format, version
        self.compressed, self.source = compressed, source

    @property
    def dequantize(self) -> bool:
        """Whether the loaded model is a plain one; transformers then removes all traces of this."""
        return not self.compressed

    def get_loading_attributes(self) -> dict[str, Any]:
        """What a config that is passed to `from_pretrained` decides, whatever config.json says."""
        return {"compressed": self.compressed}


@register_quantizer(QUANT_METHOD)
class NwcQuantizer(HfQuantizer):
    """Gives transformers the artifact in place of the weight file."""

    quantization_config: NwcConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raises UsageError: a model that is no artifact was to be quantized while it is loaded."""
        if not self.pre_quantized:
            raise UsageError("quantization_config=NwcConfig(): found a model that is no artifact; run `nwc compress`")

    def update_device_map(self, device_map: Any) -> Any:
        """Raises UsageError: a part of the model was to stay on disk."""
        devices = device_map.values() if isinstance(device_map, dict) else [device_map]
        if "disk" in map(str, devices):
            raise UsageError("device_map: found 'disk'; wanted devices: an artifact holds no plain weights to map")
        return device_map

    def update_attn_implementation(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Not about attention: the last hook before transformers looks for the weight file, and one that sees the config."""
        name = config.name_or_path or ""
        if not self.quantization_config.source and not Path(name).is_dir():
            raise UsageError(
                f"{name}: found no local folder; wanted one, or nwc_core.hf.from_pretrained with the artifact's URI"
            )
        config.transformers_weights = WEIGHTS_NAME
        return config

    def update_tp_plan(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """As `update_attn_implementation`, which older versions of transformers lack."""
        return self.update_attn_implementation(config)

    def update_ep_plan(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Nothing; asked for by older versions of transformers."""
        return config

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        if checkpoint_files:  # None where the caller gives the tensors himself
            settings = self.quantization_config
            checkpoint_files[:] = [WeightFile(settings.source or Path(checkpoint_files[0]).parent, settings.compressed)]
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if hasattr(model.config, "transformers_weights"):
            del model.config.transformers_weights
        return model

    def _dequantize(self, model: PreTrainedModel, dtype: Any = None) -> PreTrainedModel:
        decoded: dict[int, torch.nn.Parameter] = {}  # a tied weight once
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if isinstance(weight, CompressedTensor):
                    if id(weight) not in decoded:
                        decoded[id(weight)] = torch.nn.Parameter(weight.decoded())
                    setattr(module, name, decoded[id(weight)])
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """False: what would be saved is the artifact, which is there already."""
        logging.get_logger("transformers").warning(
            "A model that is compressed in memory is not saved: copy the artifact, or call model.dequantize() first."
        )
        return False

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return False


# transformers opens weight files by this name, and no quantizer can give it tensors in another way.
_modeling: Any = modeling_utils
if not hasattr(_modeling.safe_open, "opens_artifacts"):
    _modeling.safe_open = opening_artifacts(_modeling.safe_open)
# So that `from_pretrained(folder, quantization_config=NwcConfig(compressed=True))` heeds it; older versions cannot be told.
_auto: Any = auto
if hasattr(_auto, "LOADING_ATTRIBUTES_CONFIG_TYPES"):
    _auto.LOADING_ATTRIBUTES_CONFIG_TYPES += (NwcConfig,)
