"""What a loaded model costs: memory and speed of transformers' model of an artifact, decoded or compressed in memory.

Beside the model of the decompressed checkpoint. Each is loaded and run in a process of its own, by
`nwc_workflows.bench.loading_probe`, so that none profits from another's memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nwc_core
from nwc_core.errors import FormatError, UsageError
from nwc_core.store import open_store
from nwc_workflows.decompress import decompress
from nwc_workflows.wording import bytes_text

WAYS = ("plain", "decoded", "compressed")


@dataclass(frozen=True)
class Loading:
    """One way to hold a language model.

    Attributes:
        way: "plain" (the decompressed checkpoint, without nwc), "decoded" or "compressed" (from the artifact).
        weights_nbytes: bytes that the weights take, as tensors or compressed.
        resident_nbytes: by which the process's resident memory (VmRSS) has grown after loading and running a prompt.
        peak_nbytes: by which its highest resident memory (VmHWM), of loading and of running a prompt, exceeds that before.
        load_seconds: wall time of `from_pretrained`.
        tokens_per_second: of greedy generation, one sequence.
        logits_sha256: digest of the logits of a fixed prompt; equal ones are equal bit for bit.
    """

    way: str
    weights_nbytes: int
    resident_nbytes: int
    peak_nbytes: int
    load_seconds: float
    tokens_per_second: float
    logits_sha256: str


def bench_loading(artifact: str, tokens: int, threads: int, ways: Sequence[str] = WAYS) -> list[Loading]:
    """Measure the ways, one after the other.

    Args:
        artifact: of a causal language model; a folder or a URI.
        tokens: to generate.
        threads: of torch and of the decoder.
        ways: of WAYS.

    Raises:
        NotFoundError: there is no artifact.
        UsageError: it has no config.json.
        FormatError: a process failed; the error has its last line.
    """
    opened = nwc_core.open(artifact)
    if not any(file.path == "config.json" for file in opened.manifest.files):
        raise UsageError(f"{artifact}: found no config.json; wanted the artifact of a language model's folder")
    found = []
    with TemporaryDirectory(prefix="nwc-bench-") as name:
        for way in ways:
            if way == "plain":
                decompress(opened, open_store(name))
            found.append(_measure(way, name if way == "plain" else artifact, tokens, threads))
    return found


def loading_table(found: Sequence[Loading]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Headers and rows."""
    headers = ("model", "weights", "resident", "peak", "load s", "tokens/s", "logits")
    reference = found[0].logits_sha256
    return headers, [
        (
            one.way,
            bytes_text(one.weights_nbytes),
            bytes_text(one.resident_nbytes),
            bytes_text(one.peak_nbytes),
            f"{one.load_seconds:.2f}",
            f"{one.tokens_per_second:.1f}",
            "identical" if one.logits_sha256 == reference else "DIFFERENT",
        )
        for one in found
    ]


def _measure(way: str, source: str, tokens: int, threads: int) -> Loading:
    command = [sys.executable, "-m", "nwc_workflows.bench.loading_probe", way, source, str(tokens), str(threads)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())
    if ran.returncode:
        last = ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"
        raise FormatError(source, f"what could not be measured ({last})", "a causal language model")
    return Loading(way, **json.loads(ran.stdout.splitlines()[-1]))
