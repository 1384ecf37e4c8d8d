"""Artifacts in transformers. Importing this package is all that it takes:

    import nwc_core.hf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("model.nwc")        # decoded while it is loaded

    model = nwc_core.hf.from_pretrained("s3://bucket/model.nwc", AutoModelForCausalLM, compressed=True)

transformers has no plugins, so the import registers the quantizer of `quant_method: nwc`. Needs transformers 5 or newer.
"""

from __future__ import annotations

try:
    import transformers
except ImportError:
    raise ImportError("nwc_core.hf needs transformers: pip install 'nwc[transformers]'") from None
if int(transformers.__version__.partition(".")[0]) < 5:
    raise ImportError(f"nwc_core.hf: found transformers {transformers.__version__}; wanted 5.0 or newer")

from nwc_core.hf.compressed import CompressedTensor
from nwc_core.hf.loading import from_pretrained
from nwc_core.hf.quantizer import NwcConfig, NwcQuantizer

__all__ = ["CompressedTensor", "NwcConfig", "NwcQuantizer", "from_pretrained"]
