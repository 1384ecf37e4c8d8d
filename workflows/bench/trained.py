"""Codecs that a benchmark trains for itself, each once: finished ones are kept, and what was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import nwc_core
import nwc_workflows.train
from nwc_core.codec import Codec
from nwc_core.training.config import TrainingConfig
from nwc_workflows.bench.environment import environment
from nwc_workflows.progress import Progress
from nwc_workflows.train import TrainingSource, train

CONFIG = TrainingConfig()  # what `nwc train` does without options


@dataclass(frozen=True)
class Workshop:
    """Where codecs are trained.

    Attributes:
        folder: exists; keeps codecs and the states of training runs. None: nothing is kept.
        show: (steps, what is being trained) to the progress of the `with` block.
    """

    folder: Path | None
    show: Callable[[int, str], AbstractContextManager[Progress]]

    def codec(self, name: str, sources: Sequence[TrainingSource], config: TrainingConfig) -> Codec:
        """The codec that this configuration gives on these sources; `name` is for people.

        One that was kept is taken only if the same code and packages trained it.

        Raises:
            NwcError: a source or a kept file cannot be read, see `train` and `Codec.load`.
        """
        kept = self.folder and self.folder / f"{_file_name(name)}-{_identity(sources, config)}.safetensors"
        if kept and kept.exists():
            return Codec.load(kept)
        state = kept and kept.with_suffix(".state")
        with self.show(config.total_steps, f"train {name}") as progress:
            done_before = 0

            def advance(done: int, total: int, what: str) -> None:
                nonlocal done_before
                progress.advance(done - done_before)
                done_before = done

            codec = train(list(sources), config, state, advance)
        if kept and state:
            partial = kept.with_suffix(".partial")
            partial.write_bytes(codec.to_bytes())
            partial.replace(kept)
            state.unlink()
        return codec


def _identity(sources: Sequence[TrainingSource], config: TrainingConfig) -> str:
    """Of everything that determines a trained codec."""
    determined = {
        "config": asdict(config),
        "sources": [(source.name, source.sha256) for source in sources],
        "packages": environment()["packages"],
        "code": _CODE,
    }
    return hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()[:16]


def code_digest() -> str:
    """Of the code that trains: all of the codec's own, since the trainer quantises with the codec that it makes."""
    core = Path(nwc_core.__file__).parent
    training = [*sorted((core / "training").glob("*.py")), Path(nwc_workflows.train.__file__)]
    digest = hashlib.sha256()
    for file in [*sorted(core.glob("*.py")), *training]:
        data = file.read_bytes()
        digest.update(f"{file.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


_CODE = code_digest()  # as this process runs it, whatever becomes of the files while it trains


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
