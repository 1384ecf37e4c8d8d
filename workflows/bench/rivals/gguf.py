"""llama.cpp: a GGUF file written with gguf-py, quantised by llama.cpp's own quantiser, and read back with gguf-py.

llama.cpp decides which tensors get which type: a file type such as Q4_K_M is a mixture, and a tensor whose rows its
blocks do not divide falls back to another type. The importance matrix is what llama-imatrix collects, mean squares of
every layer's inputs, found here by running the model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nwc_core.errors import UsageError
from nwc_workflows.bench.rivals.gguf_file import read_tensors, tensor_names, write_model
from nwc_workflows.bench.rivals.rival import Coded, Need, Quantised, Subject, close_to, missing

if TYPE_CHECKING:
    import torch

# File types, and the bits per weight of the blocks that they are named after. A mixture takes more.
_TYPES = {
    **{"Q2_K": 2.625, "IQ2_M": 2.7, "IQ3_XXS": 3.0625, "Q3_K_M": 3.4375, "IQ3_S": 3.4375, "IQ4_XS": 4.25},
    **{"Q4_K_S": 4.5, "Q4_K_M": 4.5, "Q5_K_S": 5.5, "Q5_K_M": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5},
}


@dataclass(frozen=True)
class Gguf:
    """One file type.

    Attributes:
        type: its name.
        calibrated: with an importance matrix.
    """

    type: str
    calibrated: bool
    packages: tuple[str, ...] = ("llama-cpp-python", "gguf")

    @property
    def name(self) -> str:
        return "gguf-imatrix" if self.calibrated else "gguf"

    @property
    def setting(self) -> str:
        return self.type

    @property
    def needs(self) -> Need:
        return "data" if self.calibrated else None

    def reason_missing(self) -> str | None:
        return missing("rivals-gguf", "llama_cpp", "gguf")

    def quantise(self, subject: Subject) -> Quantised:
        names = tensor_names(subject)
        squares = subject.mean_squares if self.calibrated else {}
        importance = {names[name]: values for name, values in squares.items() if name in names}
        with TemporaryDirectory(prefix="nwc-") as folder:
            plain, small = Path(folder, "plain.gguf"), Path(folder, "small.gguf")
            write_model(subject, names, plain)
            _quantise(plain, small, self.type, importance)
            found = read_tensors(small)
            nbytes = small.stat().st_size
        coded = {}
        for name, other in names.items():
            tensor = found[other]
            if tensor.lossy:
                coded[name] = Coded(tensor.weight.reshape(subject.state[name].shape), tensor.nbytes)
        left = sum(tensor.nbytes for name, tensor in subject.state.items() if name not in names)
        return Quantised(coded, nbytes - sum(tensor.nbytes for tensor in coded.values()) + left)


def _quantise(source: Path, destination: Path, file_type: str, importance: Mapping[str, torch.Tensor]) -> None:
    """Run llama.cpp's quantiser on a file. Raises UsageError with llama.cpp's words where it refuses."""
    from llama_cpp import llama_cpp

    said: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, data: object) -> None:
        said.append(text.decode("utf-8", "replace").strip())

    params: Any = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()  # the last, without a name, ends the list
    arrays = [(name.encode(), (ctypes.c_float * len(v))(*v.tolist())) for name, v in importance.items()]
    for entry, (name, array) in zip(entries, arrays, strict=False):
        entry.name, entry.data, entry.size = name, array, len(array)
    if importance:
        params.imatrix = entries
    before, its_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(its_data))
    llama_cpp.llama_log_set(log, None)
    try:
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(destination).encode(), ctypes.byref(params))
    finally:
        llama_cpp.llama_log_set(before, its_data)  # ours ends with this function
    if failed:
        raise UsageError(f"llama.cpp: {next((line for line in reversed(said) if 'fail' in line), f'error {failed}')}")


def rivals(rates: Sequence[float]) -> list[Gguf]:
    """The file types, each without and with an importance matrix."""
    types = [name for name, bits in _TYPES.items() if close_to(rates, bits)]
    return [Gguf(name, calibrated) for calibrated in (False, True) for name in types]
