"""A codec with one part removed or replaced at a time, nothing else touched and nothing trained again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.codec import PRESETS, Codec
from nwc_core.decorrelate import Parts
from nwc_core.importance import Importance
from nwc_core.matrix_coder import CodedMatrix
from nwc_core.nwc_coder import NwcCoder
from nwc_core.trellis import STATES
from nwc_workflows.bench.contenders import CodecContender
from nwc_workflows.bench.hand_made import FREEDOMS, gaussian, laplace, student_t, tables_of

WHOLE = "whole"


@dataclass(frozen=True)
class Change:
    """Something changed in a codec.

    Attributes:
        title: in tables and plots.
        variants: codecs with the change; where there are several, the best of them counts on each tensor.
    """

    title: str
    variants: Sequence[CodecContender]


@dataclass(frozen=True)
class Ablation:
    """A codec, and what it would be with one thing changed at a time.

    Attributes:
        title: of the table.
        whole: the codec.
        changes: each compared with the whole codec.
    """

    title: str
    whole: CodecContender
    changes: Sequence[Change]


@dataclass(frozen=True, eq=False)
class FixedStates(NwcCoder):
    """The coder with a trellis of so many states, whatever preset is asked for: presets exist for some numbers only."""

    states: int = 8

    def encode(
        self,
        matrix: npt.NDArray[np.float32],
        bits: float,
        *,
        n_states: int,
        taps: int,
        threads: int,
        importance: Importance | None = None,
    ) -> CodedMatrix:
        return super().encode(matrix, bits, n_states=self.states, taps=taps, threads=threads, importance=importance)


def coder_of(codec: Codec, preset: str) -> FixedStates:
    """A codec's coder at a preset, whole; `dataclasses.replace` changes one thing.

    Raises:
        UsageError: a codec of another architecture than nwc.
    """
    return FixedStates(codec.prior, codec.transforms, Parts(), PRESETS[preset])


def contender(name: str, coder: FixedStates, provenance: Mapping[str, Any] | None = None) -> CodecContender:
    """What takes part in a benchmark; `provenance` where the coder is a trained one."""
    return CodecContender(name, Codec.of(coder, dict(provenance or {})), None)


def part_ablation(codec: Codec, preset: str) -> Ablation:
    """Every part of a codec that can be switched off or replaced without training.

    Raises:
        UsageError: a codec of another architecture than nwc.
    """
    whole = coder_of(codec, preset)
    changed = {
        **{_trellis(states): replace(whole, states=states) for states in STATES if states != whole.states},
        "no scale contexts": replace(whole, parts=Parts(contexts=False)),
        "row-normalised steps": replace(whole, parts=Parts(row_steps=True)),
        "no bases": replace(whole, parts=Parts(bases=False)),
        "no learned transforms": replace(whole, parts=Parts(transforms=False)),
        "neither bases nor transforms": replace(whole, parts=Parts(bases=False, transforms=False)),
        "Gaussian tables": replace(whole, prior=tables_of([gaussian])),
        "Gaussian, t and Laplacian tables": replace(
            whole, prior=tables_of([gaussian, *map(student_t, FREEDOMS), laplace])
        ),
    }
    changes = [Change(title, [contender(title, coder)]) for title, coder in changed.items()]
    student = [contender(f"t-{n} tables", replace(whole, prior=tables_of([student_t(n)]))) for n in FREEDOMS]
    changes.insert(-1, Change("Student-t tables, best of " + ", ".join(map(str, FREEDOMS)), student))
    title = f"One part of the codec changed at a time; {_trellis(whole.states)} unless it says otherwise"
    return Ablation(title, contender(WHOLE, whole, codec.provenance), changes)


def _trellis(states: int) -> str:
    return "scalar quantiser" if states == 1 else f"trellis of {states} states"
