"""Tiny models of the families that `nwc calibrate` is made for, what they are run on, and a calibration without Ray."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from evaluation_models import VOCABULARY, save_tokenizer, text

from nwc_core.store import open_store
from nwc_infra.cluster import RayCluster
from nwc_infra.scheduler import Outcome
from nwc_workflows import calibrate as module
from nwc_workflows.calibration.preparation import CalibrateOptions, prepare

_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_LLAMA = {**_SMALL, "num_key_value_heads": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_VIT = {
    **{key: value for key, value in _SMALL.items() if key not in ("vocab_size", "max_position_embeddings")},
    **{"num_labels": 4, "image_size": 16, "patch_size": 8},
}
_SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 16, "patch_size": 2}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 4}
_MOBILENET = {"num_labels": 4, "image_size": 16, "depth_multiplier": 0.25}
_CAUSAL, _IMAGE = "ForCausalLM", "ForImageClassification"

# Class of the model and of its config in transformers, and what the config says.
FAMILIES = {
    "llama": ("Llama", _CAUSAL, _LLAMA),
    "tied-llama": ("Llama", _CAUSAL, {**_LLAMA, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", "LMHeadModel", _GPT2),
    "mixtral": ("Mixtral", _CAUSAL, {**_LLAMA, "num_local_experts": 4}),
    # No routing, whose jumps no second derivative foresees.
    "mixtral-all": ("Mixtral", _CAUSAL, {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 4}),
    "qwen2-moe": ("Qwen2Moe", _CAUSAL, {**_LLAMA, **_EXPERTS, "shared_expert_intermediate_size": 24}),
    "gpt-oss": ("GptOss", _CAUSAL, {**_LLAMA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "bert": ("Bert", "Model", _SMALL),
    "bert-with-head": ("Bert", "ForMaskedLM", _SMALL),
    "albert": ("Albert", "Model", {**_SMALL, "embedding_size": 16}),
    "t5": ("T5", "ForConditionalGeneration", {**_T5, "decoder_start_token_id": 0}),
    "vit": ("ViT", _IMAGE, _VIT),
    "swin": ("Swin", _IMAGE, {**_SWIN, "num_labels": 4}),
    "resnet": ("ResNet", _IMAGE, _RESNET),
    "mobilenet": ("MobileNetV2", _IMAGE, _MOBILENET),
}
IMAGE_FAMILIES = ("vit", "swin", "resnet", "mobilenet")


def make(folder, family):
    """A model with random weights, large enough for every layer to matter."""
    import transformers

    torch.manual_seed(5)
    name, kind, config = FAMILIES[family]
    model = getattr(transformers, f"{name}{kind}")(getattr(transformers, f"{name}Config")(**config))
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    if family in IMAGE_FAMILIES:
        prepares = transformers.ViTImageProcessorPil(do_resize=False, image_mean=[0.5] * 3, image_std=[0.25] * 3)
        prepares.save_pretrained(folder)
    else:
        save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", name="models")
def models_by_family(tmp_path_factory):
    """Gives the folder of a model by its family, each made once. Shared: not to be changed."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = make(tmp_path_factory.mktemp(family) / "model", family)
        return made[family]

    return get


def data_for(folder, family, words=160, images=6):
    """A file that a model of this family is run on."""
    if family in IMAGE_FAMILIES:
        return save_images(folder, images)
    (folder / "text.txt").write_text(text(words))
    return folder / "text.txt"


def save_images(folder, count, size=16):
    """Random images, all of class 0."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.zeros(count, np.int64))
    return folder / "images.npz"


def calibrate_here(model, data, destination, max_memory=module.DEFAULT_MAX_MEMORY, **options):
    """Calibrate in this process, without Ray."""

    def run(function, jobs, *, shared, **bounds):
        for job in jobs:
            yield Outcome(job, function(*job.args, **shared), None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_bounded", run)
        patch.setattr(module, "cluster", lambda address, workers: nullcontext(RayCluster(None, 1)))
        prepared = prepare(str(model), CalibrateOptions(data, **options))
        return module.calibrate(prepared, open_store(destination), max_memory=max_memory)
