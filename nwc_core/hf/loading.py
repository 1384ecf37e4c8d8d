"""`from_pretrained` for an artifact anywhere: a local folder, or any URI that a store is registered for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nwc_core.artifact.objects import check_object
from nwc_core.artifact.reader import Artifact, open
from nwc_core.dtypes import DTYPES
from nwc_core.errors import UsageError
from nwc_core.hf.weights import WEIGHTS_NAME

_CONFIG = "config.json"
# What transformers reads to configure a model, a tokenizer or a processor. No *.py: code that comes with a checkpoint
# is never run.
_SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".bpe")


def from_pretrained(source: str | Path, auto_class: Any, *args: Any, compressed: bool = False, **kwargs: Any) -> Any:
    """`auto_class.from_pretrained` of the checkpoint that an artifact holds.

    Besides weights, which are decoded straight from where they are, it reads small files: they are copied to a
    temporary folder for as long as the call lasts.

    Args:
        source: a local folder or a URI.
        auto_class: of transformers: an AutoModel..., AutoTokenizer, AutoProcessor ..., or a model's own class.
        compressed: for models: whether large weights stay compressed in memory and are decoded whenever they are used.
            Results are the same bit for bit.
        args, kwargs: for `auto_class.from_pretrained`: dtype, device_map ...

    Raises:
        NotFoundError: there is no artifact.
        UsageError: `compressed` for what has no weights, or an artifact without config.json.
        VersionError, IntegrityError, FormatError: it is newer than this package, or damaged.
    """
    artifact = open(source)
    is_model = hasattr(auto_class, "_model_mapping") or hasattr(auto_class, "base_model_prefix")
    if compressed and not is_model:
        raise UsageError(f"compressed: found {auto_class.__name__}, which has no weights; wanted a model's class")
    with _small_files(artifact) as folder:
        if not is_model:
            return auto_class.from_pretrained(str(folder), *args, **kwargs)
        settings = {"quant_method": "nwc", "source": artifact.store.uri, "compressed": compressed}
        if kwargs.get("config") is not None:
            kwargs["config"] = deepcopy(kwargs["config"])
            kwargs["config"].quantization_config = settings
            kwargs["config"].dtype = kwargs["config"].dtype or _dtype(artifact)
        _change_config(artifact, folder, settings)
        loaded = auto_class.from_pretrained(str(folder), *args, **kwargs)
    model = loaded[0] if isinstance(loaded, tuple) else loaded  # with a report, if output_loading_info is True
    model.config.name_or_path = model.name_or_path = artifact.store.uri
    return loaded


def _change_config(artifact: Artifact, folder: Path, settings: dict[str, Any]) -> None:
    """Have config.json lead transformers to the artifact."""
    path = folder / _CONFIG
    if not path.is_file():
        raise UsageError(f"{artifact.store.uri}: found no {_CONFIG}; wanted the artifact of a checkpoint's folder")
    config = {**json.loads(path.read_text()), "quantization_config": settings, "transformers_weights": WEIGHTS_NAME}
    if config.get("dtype", config.get("torch_dtype")) is None:  # transformers would look for weights to take it from
        config["dtype"] = _dtype(artifact)
    path.write_text(json.dumps(config))


def _dtype(artifact: Artifact) -> str | None:
    """torch's name of the first type of floats, which transformers takes for the model's."""
    types = [DTYPES[row.dtype].torch for row in artifact.index]
    return next((str(dtype).removeprefix("torch.") for dtype in types if dtype.is_floating_point), None)


@contextmanager
def _small_files(artifact: Artifact) -> Iterator[Path]:
    """The checkpoint's small files in a temporary folder, as long as the `with` block lasts."""
    with TemporaryDirectory(prefix="nwc-") as name:
        for file in artifact.manifest.files:
            if "/" not in file.path and file.path.endswith(_SMALL):
                data = artifact.store.get(file.object)
                check_object(data, file.size, file.sha256, f"{artifact.store.uri}/{file.object}")
                (Path(name) / file.path).write_bytes(data)
        yield Path(name)
