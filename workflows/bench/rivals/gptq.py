"""GPTQ by llm-compressor, in an interpreter of its own: its pins of transformers are not those of this package.

The interpreter is the one that NWC_GPTQ_PYTHON names, else this one if it has llm-compressor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from nwc_core.errors import UsageError
from nwc_workflows.bench.rivals.rival import Coded, Need, Quantised, Subject, close_to
from nwc_workflows.evaluation.encoders import EncoderTask
from nwc_workflows.evaluation.language import LanguageTask

_VARIABLE = "NWC_GPTQ_PYTHON"
_WORKER = Path(__file__).with_name("gptq_worker.py")
_GROUPS = (32, 64, 128)
_BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Gptq:
    """Integers with a scale and a zero point for each group; the files that llm-compressor writes are counted."""

    bits: int
    group: int
    name: str = "gptq"
    packages: tuple[str, ...] = ()
    needs: Need = "data"

    @property
    def setting(self) -> str:
        return f"{self.bits} bits, groups of {self.group}"

    def reason_missing(self) -> str | None:
        if os.environ.get(_VARIABLE) or find_spec("llmcompressor"):
            return None
        return f"llmcompressor not installed: pip install it into an environment of its own, {_VARIABLE}=its python"

    def quantise(self, subject: Subject) -> Quantised:
        from safetensors.torch import load_file, save_file

        with TemporaryDirectory(prefix="nwc-") as name:
            folder = Path(name)
            (folder / "model").mkdir()
            for path, read in subject.model.files.items():  # llm-compressor wants a tokenizer even for tokens
                (folder / "model" / path).write_bytes(read())
            weights = {name: tensor.contiguous() for name, tensor in subject.state.items()}
            save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
            (folder / "job.json").write_text(json.dumps(self._job(subject)))
            _run(folder)
            found = json.loads((folder / "result.json").read_text())
            back = load_file(folder / "coded.safetensors")
        names = {linear.module: linear.name for linear in subject.linears}
        nbytes = {names[module]: size for module, size in found["nbytes"].items()}
        coded = {names[module]: Coded(weight, nbytes[names[module]]) for module, weight in back.items()}
        left = sum(tensor.nbytes for name, tensor in subject.state.items() if name not in coded)
        return Quantised(coded, left + found["header_nbytes"], found["versions"])

    def _job(self, subject: Subject) -> dict[str, object]:
        if any(linear.transposed for linear in subject.linears):
            raise UsageError("found layers stored as [in, out]; wanted torch.nn.Linear, which llm-compressor codes")
        modules = [linear.module for linear in subject.linears if subject.state[linear.name].shape[1] % self.group == 0]
        if not modules:
            raise UsageError(f"found no layer whose inputs groups of {self.group} divide; wanted some")
        task = subject.calibration.task if subject.calibration else None
        if isinstance(task, LanguageTask):
            rows = [window.tolist() for window in task.windows]
        elif isinstance(task, EncoderTask):  # one text in each batch: no padding
            rows = [inputs["input_ids"][0].tolist() for inputs in task.inputs]
        else:
            raise UsageError("found a model that reads no tokens; wanted a language model or a text encoder")
        return {
            "class": "AutoModelForCausalLM" if isinstance(task, LanguageTask) else "AutoModel",
            "tokens": rows,
            "modules": modules,
            "bits": self.bits,
            "group": self.group,
        }


def _run(folder: Path) -> None:
    """The worker on the job in a folder. Raises UsageError with its last words if it failed."""
    python = os.environ.get(_VARIABLE) or sys.executable
    # -I: its folder must not be searched for modules, since files there are called like the packages that they use.
    command = [python, "-I", str(_WORKER), str(folder)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise UsageError(f"{_VARIABLE}: found {python}: {error.strerror}; wanted an interpreter") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UsageError(f"llm-compressor: {last[0]}")


def rivals(rates: Sequence[float]) -> list[Gptq]:
    """At the bits that it packs."""
    return [Gptq(bits, group) for bits in _BITS if close_to(rates, bits) for group in _GROUPS]
