"""A weight that stays compressed in memory and behaves like the tensor that it stands for.

Modules keep their classes: an `nn.Linear` multiplies with a `CompressedTensor` as with any other, and every operation
decodes it, computes, and forgets the values. So results are those of the decoded tensor bit for bit, whatever the module.
Changes of type are remembered and carried out after each decoding. It cannot be written to or trained; gradients flow
through it to the inputs, and what autograd keeps until then is compressed, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from nwc_core.dtypes import DTYPES
from nwc_core.errors import UsageError
from nwc_core.hf.coded_weight import CodedWeight

_aten = torch.ops.aten
_SAME = (_aten.detach.default, _aten.alias.default, _aten.clone.default)


class CompressedTensor(torch.Tensor):
    """Stands for a coded tensor, on any device: its bytes stay in main memory.

    Args:
        coded: what it stands for.
        casts: types that the values are rounded to after decoding, one after the other.
        device: where the decoded values are wanted.
        transposed: whether it stands for the transpose of a matrix.
    """

    coded: CodedWeight
    _casts: tuple[torch.dtype, ...]
    _transposed: bool
    _is_param = True  # torch.nn.Parameter's mark: a module registers it as one, and nothing wraps it again
    # The default would turn all results into this class.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls,
        coded: CodedWeight,
        casts: tuple[torch.dtype, ...] = (),
        device: torch.device | str = "cpu",
        transposed: bool = False,
    ) -> CompressedTensor:
        shape = coded.shape[::-1] if transposed else coded.shape
        strides = torch.empty(coded.shape, device="meta").stride()
        tensor: CompressedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            shape,
            strides=strides[::-1] if transposed else strides,
            dtype=casts[-1] if casts else DTYPES[coded.dtype].torch,
            device=torch.device(device),
        )
        tensor.coded, tensor._casts, tensor._transposed = coded, casts, transposed
        return tensor

    def decoded(self) -> torch.Tensor:
        """The values, as a new ordinary tensor.

        Raises:
            FormatError: the bytes are damaged.
        """
        values = self._cast(self.coded.decode())
        return values.t() if self._transposed else values

    def requires_grad_(self, requires_grad: bool = True) -> CompressedTensor:
        """Does nothing; raises UsageError if asked for gradients of a weight that cannot change."""
        if requires_grad:
            raise UsageError(f"tensor {self.coded.name!r}: compressed, so it cannot be trained; wanted a decoded one")
        return self

    @property
    def requires_grad(self) -> bool:
        """False; see `requires_grad_`."""
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def data_ptr(self) -> int:
        """Refused: there is nothing at any address. What writes tensors to files by address would write nonsense."""
        raise UsageError(f"tensor {self.coded.name!r}: compressed in memory; wanted its values: use .decoded()")

    def storage(self) -> Any:
        """Refused, see `data_ptr`."""
        return self.data_ptr()

    untyped_storage = storage

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        shape = list(self.shape)
        return f"CompressedTensor({self.coded.name!r}, {shape}, {self.dtype}, {self.coded.nbytes} bytes)"

    def __deepcopy__(self, memo: dict[int, object]) -> CompressedTensor:
        return self._like()  # the bytes never change, and are shared

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return _rebuild, (self.coded, self._casts, str(self.device), self._transposed, self._marks())

    # torch.nn.Module.to() swaps a tensor of such a class for the converted one, instead of changing its memory.
    def __tensor_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        return [], (self.coded, self._casts, self.device, self._transposed)

    @staticmethod
    def __tensor_unflatten__(inner: object, context: tuple[Any, ...], size: object, stride: object) -> CompressedTensor:
        return CompressedTensor(*context)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # declared as if it were no class method
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SAME:
            return args[0]._like()
        if func in _KEPT and isinstance(args[0], CompressedTensor):
            kept = _KEPT[func](*args, **kwargs)
            if kept is not None:
                return kept
        _refuse_writing(func, args, kwargs)
        args, kwargs = tree_map_only(CompressedTensor, CompressedTensor.decoded, (args, kwargs))
        return func(*args, **kwargs)

    def _cast(self, values: torch.Tensor) -> torch.Tensor:
        for dtype in self._casts:
            values = values.to(dtype)
        return values.to(self.device)

    def _like(
        self, casts: tuple[torch.dtype, ...] = (), device: torch.device | None = None, transpose: bool = False
    ) -> CompressedTensor:
        copy = CompressedTensor(
            self.coded, self._casts + casts, device or self.device, self._transposed is not transpose
        )
        copy.__dict__.update(self._marks())
        return copy

    def _marks(self) -> dict[str, Any]:
        """What others have noted on the tensor, such as that transformers need not initialise it."""
        return {key: value for key, value in self.__dict__.items() if key not in ("coded", "_casts", "_transposed")}


def _rebuild(
    coded: CodedWeight, casts: tuple[torch.dtype, ...], device: str, transposed: bool, marks: dict[str, Any]
) -> CompressedTensor:
    tensor = CompressedTensor(coded, casts, device, transposed)
    tensor.__dict__.update(marks)
    return tensor


def _to_copy(
    tensor: CompressedTensor,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format | None = None,
) -> CompressedTensor | None:
    if layout not in (None, torch.strided) or pin_memory or torch.device(device or "cpu").type == "meta":
        return None
    return tensor._like(() if dtype is None or dtype == tensor.dtype else (dtype,), device)


def _transpose(tensor: CompressedTensor) -> CompressedTensor | None:
    return tensor._like(transpose=True) if tensor.ndim == 2 else None


def _embedding(
    weight: CompressedTensor,
    indices: torch.Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> torch.Tensor | None:
    if weight._transposed or len(weight.coded.blocks) == 1 or not weight.coded.has_whole_rows:
        return None
    rows = indices.to("cpu", torch.int64)
    if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= weight.shape[0]):
        raise IndexError("index out of range in self")  # as torch says it
    return weight._cast(weight.coded.decode_rows(rows))


# Operations that need not decode, or not all; None from one of them means that it has to be done as any other.
_KEPT: dict[Any, Callable[..., torch.Tensor | None]] = {
    _aten._to_copy.default: _to_copy,
    _aten.t.default: _transpose,
    _aten.embedding.default: _embedding,
}


def _refuse_writing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not func._schema.is_mutable:
        return
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        if isinstance(value, CompressedTensor) and argument.alias_info is not None and argument.alias_info.is_write:
            raise UsageError(
                f"tensor {value.coded.name!r}: {func} would change it, but it is compressed; wanted a decoded one"
            )
