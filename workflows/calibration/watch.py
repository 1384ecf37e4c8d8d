"""Watching a model at work: every product of its data with one of its weights, whatever class makes it.

A torch function mode sees each operation before it runs. Where an operand shares its storage with a parameter, the
shape and strides of that view tell which part of the parameter it is and along which axis the input runs. Operations
that are not in the list below, and those inside of a fused one (an LSTM, an attention as one call), are not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Handler = Callable[["Watch", tuple[Any, ...], Mapping[str, Any]], None]


@dataclass(frozen=True)
class Product:
    """Inputs that were multiplied with a weight.

    Attributes:
        parameter: name of the weight.
        input_axis: the parameter's axis along which the input runs; -1 for a convolution, whose input is a patch
            [in / groups * taps] in the order of the kernel.
        matrix: index along the parameter's first axis, where that counts matrices; None where there is one.
        positions: rows of the input.
        share: of the matrix that takes part: below 1 for some of its outputs only.
        inputs: gives them, [positions, n] or [groups, positions, n]; valid only while the observer runs.
        nbytes: of input and output together.
    """

    parameter: str
    input_axis: int
    matrix: int | None
    positions: int
    share: float
    inputs: Callable[[], torch.Tensor]
    nbytes: int


@dataclass(frozen=True)
class Lookup:
    """Rows that were picked out of a table by their number: int64 `rows`, of any shape."""

    parameter: str
    rows: torch.Tensor


class Watch(TorchFunctionMode):
    """While active, tells the observer of every product and lookup, before it is computed.

    Args:
        module: whose parameters.
        observe: called with each.
    """

    def __init__(self, module: torch.nn.Module, observe: Callable[[Product | Lookup], None]) -> None:
        super().__init__()
        self.observe = observe
        self._by_storage: dict[int, list[tuple[str, torch.nn.Parameter]]] = {}
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2:
                self._by_storage.setdefault(parameter.untyped_storage().data_ptr(), []).append((name, parameter))

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        handler = _HANDLERS.get(func)
        if handler is not None:
            handler(self, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def find(self, operand: Any) -> tuple[str, torch.nn.Parameter] | None:
        """The parameter that an operand is, or is a view of."""
        if not isinstance(operand, torch.Tensor) or operand.layout != torch.strided or not operand.numel():
            return None
        for name, parameter in self._by_storage.get(operand.untyped_storage().data_ptr(), ()):
            first = parameter.storage_offset()
            if first <= operand.storage_offset() < first + parameter.numel():
                return name, parameter
        return None

    def multiply(self, inputs: torch.Tensor, weight: Any, in_axis: int) -> None:
        """inputs [..., n] times a weight of two axes, the input running along `in_axis` of it."""
        found = self.find(weight)
        if found is None or weight.ndim != 2:
            return
        name, parameter = found
        n, m = weight.shape[in_axis], weight.shape[1 - in_axis]
        axis = _axis(parameter, weight.stride(in_axis), n)
        if axis is None:
            return
        matrix, outputs = None, parameter.numel() // n
        if parameter.ndim == 3 and parameter.shape[0] > 1 and axis != 0:
            matrix = (weight.storage_offset() - parameter.storage_offset()) // parameter.stride(0)
            outputs //= parameter.shape[0]
            if m > outputs:  # several matrices as one: they all saw these inputs, but which is not said
                return
        flat = inputs.detach()
        positions = flat.numel() // n
        self.observe(
            Product(name, axis, matrix, positions, m / outputs, lambda: flat.reshape(-1, n), 4 * positions * (m + n))
        )


def _axis(parameter: torch.nn.Parameter, stride: int, size: int) -> int | None:
    """The axis of a parameter that has this stride and size."""
    fitting = [a for a in range(parameter.ndim) if parameter.shape[a] == size and parameter.stride(a) == stride]
    return fitting[0] if fitting else None


def _linear(watch: Watch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    inputs, weight = _arguments(args, kwargs, "input", "weight")
    watch.multiply(inputs, weight, 1)


def _addmm(watch: Watch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    _, left, right = _arguments(args, kwargs, "input", "mat1", "mat2")
    _product(watch, left, right)


def _matmul(watch: Watch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    left, right = args[:2] if len(args) > 1 else (args[0], next(iter(kwargs.values())))
    _product(watch, left, right)


def _product(watch: Watch, left: Any, right: Any) -> None:
    """left @ right, where either may be a weight, or a stack of weights."""
    if not (isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)):
        return
    if right.ndim == 2:
        watch.multiply(left, right, 0)
    elif right.ndim == 3 and left.ndim == 3 and len(left) == len(right) and watch.find(right) is not None:
        for inputs, weight in zip(left, right, strict=True):
            watch.multiply(inputs, weight, 0)
    if left.ndim == 2 and right.ndim >= 2:  # W @ x: the columns of x are the inputs
        watch.multiply(right.transpose(-1, -2), left, 1)


def _embedding(watch: Watch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    rows, table = _arguments(args, kwargs, "input", "weight")
    found = watch.find(table)
    if found is not None and table.shape == found[1].shape:
        watch.observe(Lookup(found[0], rows.detach()))


def _getitem(watch: Watch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    table, index = args
    if isinstance(index, torch.Tensor) and index.dtype == torch.int64 and index.ndim and table.ndim == 2:
        _embedding(watch, (index, table), {})


def _convolution(watch: Watch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    inputs, weight = given["input"].detach(), given["weight"]
    found = watch.find(weight)
    if found is None or weight.shape != found[1].shape:
        return
    space = weight.ndim - 2
    batched = inputs if inputs.ndim == space + 2 else inputs[None]
    stride, dilation = _each(given.get("stride", 1), space), _each(given.get("dilation", 1), space)
    padding, groups = given.get("padding", 0), given.get("groups", 1)

    def patches() -> torch.Tensor:
        return _patches(batched, tuple(weight.shape[2:]), stride, padding, dilation, groups)

    sizes = [
        _positions(size, kernel, s, before + after, d)
        for size, kernel, s, (before, after), d in zip(
            batched.shape[2:],
            weight.shape[2:],
            stride,
            _pads(padding, weight.shape[2:], dilation),
            dilation,
            strict=True,
        )
    ]
    positions = len(batched) * math.prod(sizes)
    nbytes = 4 * (batched.numel() + positions * len(weight))
    watch.observe(Product(found[0], -1, None, positions, 1.0, patches, nbytes))


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (int(value),) * count if isinstance(value, int) else tuple(value) * (count // len(value))


def _pads(padding: Any, kernel: Iterable[int], dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """(before, after) along each axis of space; "same" puts the odd one after, as torch does."""
    kernel = tuple(kernel)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(0, 0)] * len(kernel) if padding == "valid" else [(p, p) for p in _each(padding, len(kernel))]


def _positions(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    return (size + pad - dilation * (kernel - 1) - 1) // stride + 1


def _patches(
    inputs: torch.Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    """[groups, positions, in / groups * taps] what each output position of a convolution sees, as the kernel lies."""
    pads = _pads(padding, kernel, dilation)
    seen = functional.pad(inputs, [side for ends in reversed(pads) for side in ends])
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        seen = seen.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    space = len(kernel)
    split = seen.reshape(len(seen), groups, -1, *seen.shape[2:])  # [items, groups, in / groups, *positions, *taps]
    order = [1, 0, *range(3, 3 + space), 2, *range(3 + space, 3 + 2 * space)]
    patches: torch.Tensor = split.permute(order).reshape(groups, -1, split.shape[2] * math.prod(kernel))
    return patches


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(args[i] if i < len(args) else kwargs[name] for i, name in enumerate(names))


_HANDLERS: dict[Any, Handler] = {
    functional.linear: _linear,
    torch.addmm: _addmm,
    torch.Tensor.addmm: _addmm,
    torch.baddbmm: _addmm,
    torch.Tensor.baddbmm: _addmm,
    torch.mm: _matmul,
    torch.Tensor.mm: _matmul,
    torch.bmm: _matmul,
    torch.Tensor.bmm: _matmul,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    functional.embedding: _embedding,
    torch.Tensor.__getitem__: _getitem,
    functional.conv1d: _convolution,
    functional.conv2d: _convolution,
    functional.conv3d: _convolution,
}
