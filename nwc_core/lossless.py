"""Lossless coding of any tensor, bit for bit: bytes split into planes, then Zstandard, or raw where that is smaller.

Body of a zstd-coded tensor: one Zstandard frame, with its content size, of the element bytes rearranged so that byte 0
of every element comes first, then byte 1, and so on. Exponents, alike across a tensor, then lie side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nwc_core.dtypes import from_torch
from nwc_core.encoded import EncodedTensor, most_elements
from nwc_core.errors import FormatError
from nwc_core.zstd_frame import pack, unpack

if TYPE_CHECKING:
    import torch

# Level 9 is within 1 % of level 19 on float planes at ten times its speed.
_ZSTD_LEVEL = 9


def tensor_bytes(tensor: torch.Tensor) -> np.ndarray:
    """The elements as a flat uint8 array, little-endian, row-major."""
    import torch

    # Conjugates and negatives may be lazy in torch: flags on a view of other bytes.
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.numel() == 1:  # torch calls any stride contiguous then, but `view` wants 1
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def tensor_from_bytes(data: bytes | bytearray | np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse of `tensor_bytes`; takes over `data` where it is writable."""
    import torch

    flat = np.frombuffer(data, np.uint8)
    if not flat.flags.writeable:
        flat = flat.copy()
    if not flat.size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(flat).view(dtype).reshape(shape)


def encode_lossless(tensor: torch.Tensor) -> EncodedTensor:
    """Code a tensor of any dtype and shape without loss."""
    raw = tensor_bytes(tensor)
    dtype, shape = from_torch(tensor.dtype), tuple(tensor.shape)
    planes = np.ascontiguousarray(raw.reshape(-1, dtype.itemsize).T)
    packed = pack(planes.tobytes(), _ZSTD_LEVEL)
    if len(packed) < raw.size:
        return EncodedTensor(dtype, shape, "zstd", packed, mse=0.0)
    return EncodedTensor(dtype, shape, "raw", raw.tobytes(), mse=0.0)


def decode_lossless(encoded: EncodedTensor, where: str = "coded tensor") -> torch.Tensor:
    """Decode a raw or zstd tensor.

    Raises:
        FormatError: the body is damaged, or its size disagrees with the shape.
    """
    size = encoded.numel * encoded.dtype.itemsize
    if encoded.coder == "raw":
        if len(encoded.body) != size:
            raise FormatError(where, f"{len(encoded.body)} bytes", f"{size} bytes for shape {list(encoded.shape)}")
        return tensor_from_bytes(encoded.body, encoded.dtype.torch, encoded.shape)
    most = most_elements("zstd", encoded.dtype, len(encoded.body)) * encoded.dtype.itemsize
    planes = unpack(encoded.body, min(size, most), where)
    if len(planes) != size:
        raise FormatError(where, f"a Zstandard frame of {len(planes)}", f"{size} bytes for shape {list(encoded.shape)}")
    raw = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(encoded.dtype.itemsize, -1).T)
    return tensor_from_bytes(raw.reshape(-1), encoded.dtype.torch, encoded.shape)
