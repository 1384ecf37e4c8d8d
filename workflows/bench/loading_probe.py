"""The process in which `nwc bench loading` loads one model and runs it: prints its figures as JSON.

Before it starts to count, it has imported everything and decoded the whole artifact once, which loads all compiled code.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import nwc_core
import nwc_core.hf
from nwc_core.hf import CompressedTensor
from nwc_core.lossless import tensor_bytes

_PROMPT_TOKENS = 32
_ROUNDS = 5  # of generation; the fastest counts
# Of malloc. While memory is counted, what is larger comes from the system and goes back when it is freed: no hole that is
# left over hides what is added, and none is counted. While time is counted, it is as large as glibc lets it become by itself.
_M_MMAP_THRESHOLD = -3
_COUNTING, _TIMING = 64 << 10, 32 << 20


def main(way: str, source: str, tokens: int, threads: int) -> dict[str, Any]:
    """The fields of `nwc_workflows.bench.loading.Loading`, but for the way."""
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_M_MMAP_THRESHOLD, _COUNTING)
    _warm_up(way, source)
    before = _resident(libc)
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts again from here
    started = time.perf_counter()
    model = _load(way, source)
    seconds = time.perf_counter() - started
    vocabulary = model.config.get_text_config().vocab_size
    prompt = (torch.arange(_PROMPT_TOKENS) * 7919 % vocabulary)[None]
    with torch.inference_mode():
        logits = model(prompt).logits  # a file that is mapped comes into memory only now
        peak, resident = _status("VmHWM") - before, _resident(libc) - before
        libc.mallopt(_M_MMAP_THRESHOLD, _TIMING)
        speed = max(_generate(model, prompt, tokens) for _ in range(_ROUNDS))
    return {
        "weights_nbytes": _weights_nbytes(model),
        "resident_nbytes": resident,
        "peak_nbytes": peak,
        "load_seconds": seconds,
        "tokens_per_second": speed,
        "logits_sha256": hashlib.sha256(tensor_bytes(logits).data).hexdigest(),
    }


def _load(way: str, source: str) -> Any:
    if way == "plain":
        return transformers.AutoModelForCausalLM.from_pretrained(source)
    return nwc_core.hf.from_pretrained(source, transformers.AutoModelForCausalLM, compressed=way == "compressed")


def _generate(model: Any, prompt: torch.Tensor, tokens: int) -> float:
    """Tokens per second."""
    started = time.perf_counter()
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return float((made.shape[1] - prompt.shape[1]) / (time.perf_counter() - started))


def _weights_nbytes(model: torch.nn.Module) -> int:
    return sum(
        weight.coded.nbytes if isinstance(weight, CompressedTensor) else weight.nbytes for weight in model.parameters()
    )


def _warm_up(way: str, source: str) -> None:
    """Load and run everything that a model of this way will need, but for the model."""
    if way != "plain":
        nwc_core.load(source)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    small: torch.nn.Module = transformers.LlamaForCausalLM(config)
    small.to(torch.bfloat16).eval()
    with torch.inference_mode():
        _generate(small, torch.zeros((1, _PROMPT_TOKENS), dtype=torch.int64), 4)


def _resident(libc: ctypes.CDLL) -> int:
    gc.collect()
    libc.malloc_trim(0)
    return _status("VmRSS")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
