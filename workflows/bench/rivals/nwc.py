"""This package: a whole compression into a temporary artifact, whose bytes are counted; with a calibration and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nwc_core.artifact.reader import Artifact
from nwc_core.codec import Codec
from nwc_core.store import open_store
from nwc_workflows.bench.rivals.rival import Coded, Need, Quantised, Subject
from nwc_workflows.bench.rivals.statistics import cut_statistics
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan

_ANY = 1e9  # bits per weight that no codec file exceeds: a plan refuses a rate that the codec alone takes


@dataclass(frozen=True)
class Compression:
    """A shipped codec, as `nwc compress` uses it.

    Attributes:
        name: of the method.
        codec: name of the codec.
        bits: per weight.
        of_coded: `bits` are those of the coded tensors alone, whatever the whole artifact takes: for a codec file that is
            larger than many a model. In the scope "linears" they always are.
        needs: "statistics" to compress with a calibration.
    """

    name: str
    codec: str
    bits: float
    of_coded: bool = False
    needs: Need = None
    packages: tuple[str, ...] = ("nwc",)

    @property
    def setting(self) -> str:
        return f"{self.bits:g} bits" + (", codec apart" if self.of_coded else "")

    def reason_missing(self) -> str | None:
        return None

    def quantise(self, subject: Subject) -> Quantised:
        from safetensors.torch import save_file

        names = subject.state if subject.scope == "whole" else subject.matrices
        state = {name: subject.state[name].contiguous() for name in names}
        calibration = cut_statistics(subject.statistics, state) if self.needs else None
        of_coded = self.of_coded or subject.scope == "linears"
        options = CompressOptions(bits=_ANY if of_coded else self.bits)
        with TemporaryDirectory(prefix="nwc-") as folder:
            source = Path(folder, "model.safetensors")
            save_file(state, source)
            plan = make_plan(source, Codec.load(self.codec), options, calibration)
            if of_coded:
                plan = replace(plan, bits=self.bits)
            written = compress(plan, open_store(Path(folder, "artifact")))
            with Artifact(open_store(Path(folder, "artifact"))) as artifact:
                return _quantised(artifact, {b.tensor.name for b in plan.blocks if b.lossy}, written.weight_nbytes)


def _quantised(artifact: Artifact, lossy: set[str], nbytes: int) -> Quantised:
    tensors = artifact.get_tensors(artifact)
    sizes = {name: artifact.index.nbytes(name) for name in lossy}
    coded = {name: Coded(tensors[name], sizes[name]) for name in sizes}
    return Quantised(coded, nbytes - sum(sizes.values()))


def rivals(rates: Sequence[float]) -> list[Compression]:
    """Ours, and the published codec, both with a calibration and without."""
    ways: list[tuple[str, Need]] = [("-calibrated", "statistics"), ("", None)]
    ours = [Compression(f"nwc{suffix}", "default", rate, needs=needs) for suffix, needs in ways for rate in rates]
    published = [
        Compression(f"nwc-paper{suffix}", "nwc-paper", rate, of_coded=True, needs=needs)
        for suffix, needs in ways
        for rate in rates
    ]
    return [*ours, *published]
