"""What a benchmark of whole models asks of a way to compress them.

A method gets the stored tensors and gives back those that it codes, as a model would compute with them, and the bytes
that it stores: what its own format writes, counted, never estimated from entropies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from nwc_core.errors import UsageError
from nwc_workflows.evaluation.stored import StoredModel

if TYPE_CHECKING:
    import torch

    from nwc_workflows.bench.rivals.calibration import Calibration
    from nwc_workflows.calibration.reading import Calibration as Statistics

Scope = Literal["whole", "linears"]
# What a method can do nothing without: calibration data, or what `nwc calibrate` makes of it.
Need = Literal["data", "statistics"] | None


@dataclass(frozen=True)
class Linear:
    """The weight of a linear layer.

    Attributes:
        name: of the stored tensor.
        module: of the layer, in the loaded model.
        transposed: stored as [in, out], as GPT-2's are.
    """

    name: str
    module: str
    transposed: bool = False


@dataclass(frozen=True)
class Subject:
    """A model to compress.

    Attributes:
        model: where it is, its config and small files.
        state: all its tensors by name, as stored.
        scope: "whole" lets every method take what its users would let it take; with "linears" all take the same.
        matrices: tensors that may be coded: all matrices, or in the scope "linears" the weights of `linears` alone.
        linears: the linear layers but for the output head.
        head: the output head; None where there is none, where it shares the embedding's weight, or in the scope "linears".
        calibration: data to calibrate on; None if none was given.
        calibrate: opens or makes what `nwc calibrate` makes of the model; None if there is neither that nor data.
    """

    model: StoredModel
    state: Mapping[str, torch.Tensor]
    scope: Scope
    matrices: tuple[str, ...]
    linears: tuple[Linear, ...]
    head: Linear | None
    calibration: Calibration | None
    calibrate: Callable[[], Statistics] | None = None

    @cached_property
    def statistics(self) -> Statistics:
        """What `nwc calibrate` makes of the model, made once for all methods.

        Raises:
            UsageError: there is neither a calibration nor data for one; see also `nwc_workflows.calibrate`.
        """
        if self.calibrate is None:
            raise UsageError("found neither a calibration nor data for one; wanted either")
        return self.calibrate()

    @cached_property
    def mean_squares(self) -> dict[str, torch.Tensor]:
        """See `Calibration.mean_squares`; empty without calibration data."""
        return self.calibration.mean_squares(self.linears) if self.calibration else {}

    @property
    def weights(self) -> int:
        """Elements of all tensors in the scope."""
        names = self.state if self.scope == "whole" else self.matrices
        return sum(self.state[name].numel() for name in names)

    def code(
        self, layers: Iterable[Linear], method: Callable[[torch.Tensor], tuple[torch.Tensor, int] | None]
    ) -> Quantised:
        """Code layers one by one. All other tensors stay as they are stored.

        Args:
            layers: which.
            method: gets a layer's weight [out, in] of the stored type, and gives what is read back, of the same shape,
                and the bytes stored; None for a layer that it leaves alone.
        """
        coded: dict[str, Coded] = {}
        for layer in layers:
            stored = self.state[layer.name]
            found = method(stored.T.contiguous() if layer.transposed else stored)
            if found is not None:
                weight, nbytes = found
                coded[layer.name] = Coded(weight.T.contiguous() if layer.transposed else weight, nbytes)
        return self.with_rest(coded)

    def with_rest(self, coded: dict[str, Coded]) -> Quantised:
        """What is stored if all but the coded tensors stay as they are in the checkpoint's files."""
        return Quantised(coded, self.model.nbytes - sum(self.state[name].nbytes for name in coded))


@dataclass(frozen=True)
class Coded:
    """A coded tensor.

    Attributes:
        weight: what a model computes with: of the stored shape, and any type that holds its values.
        nbytes: that are stored for it alone: codes, scales, zero points.
    """

    weight: torch.Tensor
    nbytes: int


@dataclass(frozen=True)
class Quantised:
    """A coded model.

    Attributes:
        coded: tensors by name.
        other_nbytes: that are stored besides these: tensors that were left alone, headers, codebooks.
        versions: of packages that another interpreter has.
    """

    coded: Mapping[str, Coded]
    other_nbytes: int
    versions: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """All that is stored."""
        return sum(coded.nbytes for coded in self.coded.values()) + self.other_nbytes


class Rival(Protocol):
    """A method at one of its settings.

    Attributes:
        name: of the method.
        setting: in its own words, such as "4 bits, groups of 64".
        packages: distributions that do the work, for the record of versions.
        needs: what it can do nothing without.
    """

    @property
    def name(self) -> str: ...

    @property
    def setting(self) -> str: ...

    @property
    def packages(self) -> tuple[str, ...]: ...

    @property
    def needs(self) -> Need: ...

    def reason_missing(self) -> str | None:
        """Why it cannot run on this machine, and what to do about it; None if it can."""
        ...

    def quantise(self, subject: Subject) -> Quantised:
        """Code a model.

        Raises:
            UsageError: it cannot code this model.
        """
        ...


def missing(extra: str, *modules: str) -> str | None:
    """Which of these modules are not installed, and the extra that brings them; None if all are there."""
    absent = [module for module in modules if find_spec(module) is None]
    return f"{', '.join(absent)} not installed: pip install 'nwc[{extra}]'" if absent else None


def close_to(rates: Iterable[float], bits: float) -> bool:
    """Whether a format of so many bits per weight takes part where these rates are asked for: less than a bit above one."""
    return any(rate <= bits < rate + 1 for rate in rates)


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of the distributions; None for one that is not installed here."""
    return {name: _version(name) for name in packages}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
