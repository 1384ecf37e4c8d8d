"""A model as a GGUF file that llama.cpp can quantise, and back. No tokenizer: quantising needs none.

Tensors are written in float32, from which llama.cpp makes all its types; those that it leaves alone stay float32, as in
the files that its users have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nwc_core.errors import UsageError
from nwc_workflows.bench.rivals.rival import Subject

if TYPE_CHECKING:
    import torch

# transformers' model_type and llama.cpp's architecture, for those whose tensors both store alike but for their names and
# the order of rows, which quantising does not see.
_ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "bert": "BERT"}
# The settings that llama.cpp wants of all of these: the writer's function, and the key of config.json.
_SETTINGS = {
    "add_context_length": "max_position_embeddings",
    "add_embedding_length": "hidden_size",
    "add_feed_forward_length": "intermediate_size",
    "add_head_count": "num_attention_heads",
}


@dataclass(frozen=True)
class Stored:
    """A tensor of a GGUF file.

    Attributes:
        weight: dequantised, float32, of the shape in the file.
        nbytes: in the file.
        lossy: its type is a quantised one.
    """

    weight: torch.Tensor
    nbytes: int
    lossy: bool


def tensor_names(subject: Subject) -> dict[str, str]:
    """Names in the GGUF file of the tensors that llama.cpp has names for.

    Raises:
        UsageError: it does not know the model's architecture, or this benchmark does not.
    """
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = _config(subject)
    known = get_tensor_name_map(getattr(MODEL_ARCH, _ARCHITECTURES[config["model_type"]]), config["num_hidden_layers"])
    prefix = f"{config['model_type']}."  # heads of transformers store their body's tensors under it, bodies do not
    found = {
        name: known.get_name(name.removeprefix(prefix), try_suffixes=(".weight", ".bias"))
        for name, tensor in subject.state.items()
        if tensor.is_floating_point()
    }
    return {name: other for name, other in found.items() if other is not None}


def write_model(subject: Subject, names: Mapping[str, str], path: Path) -> None:
    """Write the tensors that have names."""
    from gguf import GGUFWriter

    config = _config(subject)
    writer = GGUFWriter(path, _ARCHITECTURES[config["model_type"]].lower())
    writer.add_block_count(config["num_hidden_layers"])
    for function, key in _SETTINGS.items():
        getattr(writer, function)(config[key])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_causal_attention(False)
    for name, other in names.items():
        writer.add_tensor(other, subject.state[name].float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tensors(path: Path) -> dict[str, Stored]:
    """All tensors of a file, in float32."""
    import torch
    from gguf import GGMLQuantizationType, GGUFReader, dequantize

    plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
    found = {}
    for tensor in GGUFReader(path).tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        found[tensor.name] = Stored(weight, int(tensor.n_bytes), tensor.tensor_type not in plain)
    return found


def _config(subject: Subject) -> dict[str, Any]:
    """The model's config.json. Raises UsageError where it cannot be told to llama.cpp."""
    config = subject.model.config or {}
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise UsageError(
            f"model_type: found {kind!r}; wanted one of {', '.join(_ARCHITECTURES)}, which llama.cpp knows"
        )
    wanted = ["num_hidden_layers", *_SETTINGS.values(), "layer_norm_eps" if kind == "bert" else "rms_norm_eps"]
    missing = [key for key in wanted if key not in config]
    if missing:
        raise UsageError(f"{subject.model.uri}: config.json: found no {', '.join(missing)}, which llama.cpp wants")
    return config
