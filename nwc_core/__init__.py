"""Neural weight compression: the codec and the artifact format.

    import nwc_core as nwc

    codec = nwc.Codec.load("default")
    encoded = codec.encode(weight, bits=4.0)
    weight_again = codec.decode(encoded)

    with nwc.open("model.nwc") as artifact:
        tensor = artifact.get_tensor("encoder.layer.0.attention.self.query.weight")

Pure: tensors and bytes in, bytes and tensors out. Names below are imported on first use, so that importing the package
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nwc_core.artifact.reader import Artifact, iter_tensors, load, open
    from nwc_core.codec import Codec
    from nwc_core.encoded import EncodedTensor

_HOME = {
    "Artifact": "nwc_core.artifact.reader",
    "Codec": "nwc_core.codec",
    "EncodedTensor": "nwc_core.encoded",
    "iter_tensors": "nwc_core.artifact.reader",
    "load": "nwc_core.artifact.reader",
    "open": "nwc_core.artifact.reader",
}
__all__ = ["Artifact", "Codec", "EncodedTensor", "iter_tensors", "load", "open"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
