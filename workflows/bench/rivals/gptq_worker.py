"""Run by the interpreter that has llm-compressor, not by this package's: GPTQ on the model in a folder.

Reads model/ and job.json; writes the compressed model, then result.json and what its weights read back as,
coded.safetensors by name of the module. Usage: python -I gptq_worker.py FOLDER
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


def quantise(folder: Path) -> None:
    """Do the job of a folder."""
    import transformers
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from safetensors.torch import save_file

    job = json.loads((folder / "job.json").read_text())
    model = getattr(transformers, job["class"]).from_pretrained(folder / "model", dtype="auto")
    arguments = {"num_bits": job["bits"], "group_size": job["group"], "type": "int", "strategy": "group"}
    groups = {"linears": {"targets": job["modules"], "weights": {**arguments, "symmetric": False}}}
    rows = job["tokens"]
    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}),
        recipe=GPTQModifier(config_groups=groups),
        max_seq_length=max(map(len, rows)),
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,  # all take part; another order would be another sum, and other weights
    )
    weights = {name: model.get_submodule(name).weight.detach().clone().contiguous() for name in job["modules"]}
    model.save_pretrained(folder / "compressed", save_compressed=True)
    save_file(weights, folder / "coded.safetensors")
    result = {**_sizes(folder / "compressed", job["modules"]), "versions": {name: version(name) for name in PACKAGES}}
    (folder / "result.json").write_text(json.dumps(result))


def _sizes(folder: Path, modules: list[str]) -> dict[str, Any]:
    """Bytes in the files by module, and those of the files' headers."""
    found = dict.fromkeys(modules, 0)
    headers = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        headers += 8 + length
        for name, entry in header.items():
            if name.rpartition(".")[0] in found and not name.endswith(".bias"):
                found[name.rpartition(".")[0]] += entry["data_offsets"][1] - entry["data_offsets"][0]
    return {"nbytes": found, "header_nbytes": headers}


if __name__ == "__main__":
    quantise(Path(sys.argv[1]))
