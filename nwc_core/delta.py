"""Coding a tensor as what it differs in from another, its base, which whoever decodes it has: fine-tunes, later checkpoints.

Coder `nwc-delta` is lossy. Its body is a whole coded tensor (`EncodedTensor.to_bytes`) of coder nwc, dtype F32 and the same
shape: the difference to the base. The tensor is base + difference, added in float32 (in float64 where that is the
tensor's type) and rounded once to its type. Where the difference is a quarter of the tensor, equal error takes two bits less.

Coder `exact-delta` is lossless. Its body is empty where the tensor is its base, bit for bit; else a whole coded tensor of a
lossless coder and an integer dtype as wide as the tensor's, the same shape: the differences of the elements' ranks, as
zigzag integers. The rank of a float is its bits as a signed integer, all but the sign flipped where that is set: ranks of
neighbouring floats differ by one, and every pattern has one, NaN and -0 included. The rank of an integer is its bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nwc_core.dtypes import DType, from_torch
from nwc_core.encoded import DELTA, EXACT_DELTA, EncodedTensor
from nwc_core.errors import FormatError
from nwc_core.lossless import decode_lossless, encode_lossless, tensor_bytes, tensor_from_bytes

if TYPE_CHECKING:
    import torch

    from nwc_core.codec import Codec

# Integers as wide as an element. Complex numbers are two floats.
_INTEGERS: dict[int, type[np.signedinteger[Any]]] = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_NAMES = {1: "I8", 2: "I16", 4: "I32", 8: "I64"}
_WORTH = 0.9  # of the tensor's root mean square: a difference larger than that is not worth the base


def difference(weight: torch.Tensor, base: torch.Tensor) -> torch.Tensor | None:
    """Weight less base [shape], float32; None where coding that would hardly be cheaper than the weight itself.

    Decided from the values alone, so that all who ask decide alike.
    """
    import torch

    if base.shape != weight.shape or not base.is_floating_point() or not weight.numel():
        return None
    wide = _wide(weight.dtype)
    found = (weight.to(wide) - base.to(wide)).to(torch.float32)
    # Sums in numpy: pairwise, in an order of their own whatever the number of threads.
    energy, whole = (float(np.square(values.numpy(), dtype=np.float64).sum()) for values in (found, weight.to(wide)))
    return found if energy < _WORTH**2 * whole else None


def with_base(coded: EncodedTensor, weight: torch.Tensor, base: torch.Tensor, codec: Codec) -> EncodedTensor | None:
    """The delta of a weight whose difference to its base is `coded`; None where adding leaves the weight's range."""
    import torch

    delta = EncodedTensor(from_torch(weight.dtype), tuple(weight.shape), DELTA, coded.to_bytes(), coded.side_nbytes)
    error = decode_delta(delta, base, codec).to(torch.float64) - weight.to(torch.float64)
    mse = float(np.square(error.numpy()).mean()) if weight.numel() else 0.0
    if not np.isfinite(mse):
        return None
    return EncodedTensor(delta.dtype, delta.shape, DELTA, delta.body, coded.side_nbytes, mse)


def same_as_base(dtype: DType, shape: tuple[int, ...]) -> EncodedTensor:
    """The exact delta of a tensor that is its base."""
    return EncodedTensor(dtype, shape, EXACT_DELTA, b"", mse=0.0)


def encode_exact_delta(tensor: torch.Tensor, base: torch.Tensor) -> EncodedTensor | None:
    """The exact delta of a tensor of any dtype; None where the base is of another dtype or shape."""
    if base.dtype != tensor.dtype or base.shape != tensor.shape:
        return None
    dtype, shape = from_torch(tensor.dtype), tuple(tensor.shape)
    mine, others = tensor_bytes(tensor), tensor_bytes(base)
    if np.array_equal(mine, others):
        return same_as_base(dtype, shape)
    width = _width(dtype)
    apart = _ranks(mine, dtype) - _ranks(others, dtype)  # wraps around, as adding will
    zigzag = (apart << 1) ^ (apart >> (8 * width - 1))
    coded = encode_lossless(tensor_from_bytes(zigzag.view(np.uint8), _integer(width), _wide_shape(dtype, shape)))
    return EncodedTensor(dtype, shape, EXACT_DELTA, coded.to_bytes(), mse=0.0)


def decode_delta(
    encoded: EncodedTensor, base: torch.Tensor, codec: Codec, threads: int = 1, where: str = "coded tensor"
) -> torch.Tensor:
    """The tensor of a delta, same shape and dtype.

    Args:
        encoded: of a coder with a base.
        base: of the same number of elements; what it was coded against, bit for bit.
        codec: that coded it.

    Raises:
        FormatError: the bytes are damaged, or the base is another's; `where` names the tensor.
    """
    if base.numel() != encoded.numel:
        raise FormatError(where, f"a base of shape {list(base.shape)}", f"{list(encoded.shape)}")
    base = base.reshape(encoded.shape)
    if encoded.coder == EXACT_DELTA:
        return _decode_exact(encoded, base, where)
    inner = EncodedTensor.from_bytes(encoded.body, f"{where}, difference")
    if (inner.coder, inner.dtype.name, inner.shape) != ("nwc", "F32", encoded.shape):
        found = f"a difference {inner.dtype.name} {list(inner.shape)} coded by {inner.coder}"
        raise FormatError(where, found, f"F32 {list(encoded.shape)} coded by nwc")
    if not (encoded.dtype.lossy and base.is_floating_point()):
        raise FormatError(where, f"{encoded.dtype.name} with a base of {base.dtype}", "floats")
    wide = _wide(encoded.dtype.torch)
    return codec.decode(inner, threads, where).to(wide).add_(base.to(wide)).to(encoded.dtype.torch)


def _decode_exact(encoded: EncodedTensor, base: torch.Tensor, where: str) -> torch.Tensor:
    dtype, shape = encoded.dtype, encoded.shape
    if base.dtype != dtype.torch:
        raise FormatError(where, f"a base of {base.dtype}", dtype.name)
    if not encoded.body:
        return base.clone()
    width = _width(dtype)
    inner = EncodedTensor.from_bytes(encoded.body, f"{where}, difference")
    wanted = (_NAMES[width], _wide_shape(dtype, shape))
    if inner.coder in (DELTA, EXACT_DELTA, "nwc") or (inner.dtype.name, inner.shape) != wanted:
        found = f"a difference {inner.dtype.name} {list(inner.shape)} coded by {inner.coder}"
        raise FormatError(where, found, f"{wanted[0]} {list(wanted[1])}, coded without loss")
    zigzag = tensor_bytes(decode_lossless(inner, where)).view(_INTEGERS[width])
    unsigned = zigzag.view(zigzag.dtype.str.replace("i", "u"))
    apart = (unsigned >> 1).view(zigzag.dtype) ^ -(zigzag & 1)
    ranks = _ranks(tensor_bytes(base), dtype) + apart
    return tensor_from_bytes(_of_ranks(ranks, dtype).view(np.uint8), dtype.torch, shape)


def _ranks(raw: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.signedinteger[Any]]:
    bits = raw.view(_INTEGERS[_width(dtype)])
    return _of_ranks(bits, dtype)


def _of_ranks(ranks: npt.NDArray[np.signedinteger[Any]], dtype: DType) -> npt.NDArray[np.signedinteger[Any]]:
    """Bits from ranks, and ranks from bits."""
    if not (dtype.torch.is_floating_point or dtype.torch.is_complex):
        return ranks
    last = np.iinfo(ranks.dtype)
    return ranks ^ ((ranks >> (last.bits - 1)) & last.max)


def _width(dtype: DType) -> int:
    return dtype.itemsize // (2 if dtype.torch.is_complex else 1)


def _wide_shape(dtype: DType, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 2) if dtype.torch.is_complex else shape


def _integer(width: int) -> torch.dtype:
    import torch

    return {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[width]


def _wide(dtype: torch.dtype) -> torch.dtype:
    import torch

    return torch.float64 if dtype == torch.float64 else torch.float32
