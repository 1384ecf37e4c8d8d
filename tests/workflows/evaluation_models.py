"""Tiny models of every kind that `nwc evaluate` knows, with tokenizers, and their artifacts."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nwc_core.codec import Codec
from nwc_core.store import open_store
from nwc_infra.cluster import RayCluster
from nwc_infra.scheduler import Outcome
from nwc_workflows import compress as module
from nwc_workflows import tasks
from nwc_workflows.plan import CompressOptions, make_plan

WORDS = [f"w{i}" for i in range(60)]
VOCABULARY = 64


def text(words, seed=0):
    """So many words, in lines of seven."""
    picks = torch.randint(len(WORDS), (words,), generator=torch.Generator().manual_seed(seed)).tolist()
    return "\n".join(" ".join(WORDS[i] for i in picks[at : at + 7]) for at in range(0, words, 7))


def save_tokenizer(folder):
    """A word is a token; "[PAD]" is 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=128
    ).save_pretrained(folder)


def make_llama(folder, tied=False):
    """A language model, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def make_bert(folder, head=False):
    """An encoder, or the same with the head that it was trained with."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    (BertForMaskedLM if head else BertModel)(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)
        self.again = self.linear

    def forward(self, x):
        return self.again(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

def make(config):
    return Net(config["width"], config["classes"])

def nothing(config):
    return 7
"""


def make_cnn(folder):
    """A network that transformers does not know: two names for the linear layer, stored once, and no batch counter."""
    generator = torch.Generator().manual_seed(3)
    folder.mkdir(parents=True)
    width, classes = 32, 4
    tensors = {
        "conv.weight": torch.randn(width, 3, 3, 3, generator=generator),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
        "norm.running_mean": torch.zeros(width),
        "norm.running_var": torch.ones(width),
        "linear.weight": torch.randn(classes, width, generator=generator),
        "linear.bias": torch.zeros(classes),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(
        '{"width": 32, "classes": 4, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "arch": "own"}'
    )
    return folder


def artifact_of(source, destination, bits=11.6):
    """Compress in this process, without Ray; many bits of so small a model are index, vectors and codec."""

    def run(function, jobs, *, shared, **bounds):
        for job in jobs:
            yield Outcome(job, function(*job.args, **shared), None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "run_bounded", run)
        patch.setattr(module, "cluster", lambda address, workers: nullcontext(RayCluster(None, 1)))
        options = CompressOptions(bits=bits, preset="fast")
        module.compress(make_plan(source, Codec.load("default"), options), open_store(destination))
    return Path(destination)


def change_weights(folder, change):
    """Rewrite the weights of a checkpoint: `change` alters the dict of its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
