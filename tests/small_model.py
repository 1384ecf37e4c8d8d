"""A language model with random weights and a tokenizer, and texts that it reads: for what needs a model of that kind."""

from __future__ import annotations

from pathlib import Path

import torch

_WORDS = [f"w{i}" for i in range(124)]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def make_text(words: int, seed: int) -> str:
    """So many words, twelve in a line."""
    picks = torch.randint(len(_WORDS), (words,), generator=torch.Generator().manual_seed(seed)).tolist()
    return "\n".join(" ".join(_WORDS[i] for i in picks[at : at + 12]) for at in range(0, words, 12))


def make_language_model(folder: Path) -> None:
    """A Llama of 0.4 M weights in float32: large enough that codec and index leave most of four bits to its weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*_SPECIAL, *_WORDS])}
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        initializer_range=0.05,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=256
    ).save_pretrained(folder)
