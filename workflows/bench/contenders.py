"""Who takes part in a benchmark: codecs with the presets of their encoders, and the ideal scalar quantiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from nwc_core.codec import Codec
from nwc_core.codec_file import NWC
from nwc_core.dtypes import from_torch
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import UsageError
from nwc_core.matrices import Layout
from nwc_core.quantise import Unsuitable
from nwc_core.reference.coder import ReferenceCoder
from nwc_core.reference.recipe import QUALITIES
from nwc_core.wire import ByteWriter
from nwc_workflows.bench.ideal_scalar import NAME as IDEAL_SCALAR
from nwc_workflows.bench.ideal_scalar import ideal_scalar
from nwc_workflows.bench.measure import Measurement, measure


class Contender(Protocol):
    """A way to code tensors.

    Attributes:
        name: of the codec.
        preset: of the encoder; None where it has none.
        label: unique in a benchmark.
        own_rates: it is measured at rates of its own, whichever are asked for, so that others can be compared with it at
            equal error but not it with others.
    """

    @property
    def name(self) -> str: ...

    @property
    def preset(self) -> str | None: ...

    @property
    def label(self) -> str: ...

    @property
    def own_rates(self) -> bool: ...

    def settings(self, rates: Sequence[float]) -> Sequence[float]:
        """What to measure it at where these rates are asked for: the rates, or settings of its own."""
        ...

    def measure(self, weight: torch.Tensor, layout: Layout, setting: float) -> Measurement | None:
        """Code `weight`, seen as `layout` says, at one of its settings; None where it coded without loss."""
        ...


@dataclass(frozen=True)
class CodecContender:
    """A codec, with one preset of its encoder where its architecture has presets."""

    name: str
    codec: Codec
    preset: str | None

    @property
    def own_rates(self) -> bool:
        return False

    @property
    def label(self) -> str:
        return f"{self.name}:{self.preset}" if self.preset else self.name

    def settings(self, rates: Sequence[float]) -> Sequence[float]:
        return rates

    def measure(self, weight: torch.Tensor, layout: Layout, setting: float) -> Measurement | None:
        encode = partial(self.codec.encode, weight, setting, preset=self.preset or "default", layout=layout)
        return measure(self.codec, weight, encode, wanted=setting, tables=self.codec.architecture == NWC)


@dataclass(frozen=True)
class NativeContender:
    """The published codec at its four quality levels, each at whatever rate that gives, and nothing in between.

    What reaches other rates is not part of the publication, and may cost something.
    """

    name: str
    codec: Codec
    coder: ReferenceCoder
    preset: None = None
    own_rates: bool = True

    @property
    def label(self) -> str:
        return f"{self.name}:native"

    def settings(self, rates: Sequence[float]) -> Sequence[float]:
        return range(QUALITIES)

    def measure(self, weight: torch.Tensor, layout: Layout, setting: float) -> Measurement | None:
        try:
            encode = partial(self._encode, weight, layout, int(setting))
            return measure(self.codec, weight, encode, wanted=None, tables=False)
        except Unsuitable:
            return None

    def _encode(self, weight: torch.Tensor, layout: Layout, quality: int) -> EncodedTensor:
        """As `Codec.encode` writes it."""
        out = ByteWriter()
        layout.write(out)
        side = len(out)
        for matrix in layout.to_matrices(weight.float().numpy()):
            coded = self.coder.encode_native(matrix, quality)
            before = len(out)
            out.varint(len(coded.data))
            side += len(out) - before + coded.side_nbytes
            out.raw(coded.data)
        return EncodedTensor(from_torch(weight.dtype), tuple(weight.shape), "nwc", out.getvalue(), side_nbytes=side)


@dataclass(frozen=True)
class IdealScalarContender:
    """The quantiser of `nwc_workflows.bench.ideal_scalar`."""

    name: str = IDEAL_SCALAR
    preset: None = None
    label: str = IDEAL_SCALAR
    own_rates: bool = False

    def settings(self, rates: Sequence[float]) -> Sequence[float]:
        return rates

    def measure(self, weight: torch.Tensor, layout: Layout, setting: float) -> Measurement:
        return ideal_scalar(weight, setting, layout)


def find_contenders(codecs: Sequence[str], presets: Sequence[str]) -> list[list[Contender]]:
    """The contenders of every codec, one list each.

    Args:
        codecs: names of shipped codecs, codec files, or IDEAL_SCALAR.
        presets: for every codec whose architecture has presets.

    Raises:
        UsageError: two codecs of one name.
        NwcError: a codec cannot be loaded, see `Codec.load`.
    """
    found: list[list[Contender]] = []
    for given in codecs:
        if given == IDEAL_SCALAR:
            found.append([IdealScalarContender()])
            continue
        codec = Codec.load(given)
        name = given if given in Codec.available() else Path(given).stem
        if isinstance(codec.coder, ReferenceCoder):
            found.append([CodecContender(name, codec, None), NativeContender(name, codec, codec.coder)])
        else:
            found.append([CodecContender(name, codec, preset) for preset in presets])
    names = [group[0].name for group in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"codec: found two named {name!r}; wanted different names, to tell them apart in tables")
    return found
