"""Vectors of 32 lanes for compiled kernels: what one step of the entropy coder or of the trellis search is made of.

Inside a kernel, `Lanes` values are added, compared and shifted like numbers, lane by lane. They become generic LLVM vectors,
which LLVM turns into whatever the processor has: two AVX-512 registers, four of AVX2, eight of NEON, or plain loops. The
results are the same on all of them: integers wrap around, floats are rounded operation by operation, never fused.

    INT, FLOAT   32 int32 or float32; operators + - * and, on INT, & | ^ << >> (arithmetic)
    MASK         32 booleans, from < > and, on INT, ==; operators & |

A number beside a vector stands for that number in every lane. Arrays are one-dimensional and contiguous; others do not
compile. Nothing here checks bounds: `load` reads and `store` writes 32 elements from `at` on, however few matter.
"""

# mypy: disable-error-code="attr-defined, import-untyped, misc, no-untyped-call"
# numba and llvmlite have hardly any types.
from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.core.errors import LoweringError
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin, models, register_model

WIDTH = 32

intrinsic: Any = extending.intrinsic  # numba types it as a function of two arguments more than kernels pass

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(size) for size in (1, 8, 16, 32, 64))
_Emit = Callable[..., Any]


class Lanes(types.Type):
    """The type of 32 elements."""

    def __init__(self, name: str, element: Any, llvm: Any) -> None:
        super().__init__(name=f"Lanes({name})")
        self.element, self.vector = element, ir.VectorType(llvm, WIDTH)


INT = Lanes("int32", types.int32, _I32)
FLOAT = Lanes("float32", types.float32, ir.FloatType())
MASK = Lanes("mask", types.boolean, _I1)
_LANES_OF = {types.float32: FLOAT} | dict.fromkeys(
    (types.int32, types.uint32, types.uint16, types.int8, types.uint8), INT
)


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.vector)


def _constant(vector: Any, values: Any) -> Any:
    return ir.Constant(vector, [ir.Constant(vector.element, value) for value in values])


def _all(builder: Any, scalar: Any) -> Any:
    """A vector of one scalar."""
    vector = ir.VectorType(scalar.type, WIDTH)
    none = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(none, scalar, _I32(0))
    return builder.shuffle_vector(first, none, _constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH))


def spread(context: Any, builder: Any, value: Any, kind: Any, lanes: Lanes) -> Any:
    """A value of numba type `kind`, a number or a vector already, as `lanes`."""
    if isinstance(kind, Lanes):
        return value
    return _all(builder, context.cast(builder, value, kind, lanes.element))


def call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    """A call of an LLVM intrinsic."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _start(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """Pointer to the first element of an array."""
    if array.ndim != 1 or array.layout != "C":
        raise LoweringError(f"{array}; wanted one axis, contiguous: strides would be overlooked")
    return context.make_array(array)(context, builder, value).data


def address(context: Any, builder: Any, array: Any, value: Any, at: Any, at_kind: Any) -> Any:
    return builder.gep(_start(context, builder, array, value), [context.cast(builder, at, at_kind, types.intp)])


def _operator(function: Callable[..., Any], emit: dict[Lanes, _Emit], result: Lanes | None = None) -> None:
    """Teach numba an operator between vectors, or a vector and a number."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = {arg for arg in args if isinstance(arg, Lanes)}
            if len(vectors) != 1 or not all(isinstance(arg, (Lanes, types.Number)) for arg in args):
                return None
            (lanes,) = vectors
            return signature(result or lanes, *args) if lanes in emit else None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = next(kind for kind in sig.args if isinstance(kind, Lanes))
        values = (spread(context, builder, value, kind, lanes) for value, kind in zip(args, sig.args, strict=True))
        return emit[lanes](builder, *values)

    infer_global(function)(Template)
    for pair in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(function, *pair)(lower)


def _comparison(sign: str) -> dict[Lanes, _Emit]:
    return {
        INT: lambda builder, a, b: builder.icmp_signed(sign, a, b),
        FLOAT: lambda builder, a, b: builder.fcmp_ordered(sign, a, b),
    }


_build = ir.IRBuilder
_operator(operator.add, {INT: _build.add, FLOAT: _build.fadd})
_operator(operator.sub, {INT: _build.sub, FLOAT: _build.fsub})
_operator(operator.mul, {INT: _build.mul, FLOAT: _build.fmul})
_operator(operator.and_, {INT: _build.and_, MASK: _build.and_})
_operator(operator.or_, {INT: _build.or_, MASK: _build.or_})
_operator(operator.xor, {INT: _build.xor})
_operator(operator.lshift, {INT: _build.shl})
_operator(operator.rshift, {INT: _build.ashr})
_operator(operator.lt, _comparison("<"), MASK)
_operator(operator.gt, _comparison(">"), MASK)
_operator(operator.eq, {INT: _comparison("==")[INT]}, MASK)


@intrinsic
def iota(typing_context: Any) -> Any:
    """INT of 0, 1, ... 31."""
    return INT(), lambda context, builder, sig, args: _constant(INT.vector, range(WIDTH))


@intrinsic
def splat(typing_context: Any, number: Any) -> Any:
    """INT of an integer in every lane."""
    return INT(number), lambda context, builder, sig, args: spread(context, builder, args[0], number, INT)


@intrinsic
def load(typing_context: Any, array: Any, at: Any) -> Any:
    """Elements at, at + 1, ... of an array of float32 (FLOAT) or of integers of up to 32 bits (INT)."""
    lanes, size = _LANES_OF[array.dtype], array.dtype.bitwidth

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = lanes.vector if size == 32 else ir.VectorType(ir.IntType(size), WIDTH)
        pointer = builder.bitcast(address(context, builder, array, args[0], args[1], at), source.as_pointer())
        values = builder.load(pointer, align=size // 8)
        if size == 32:
            return values
        return (builder.sext if array.dtype.signed else builder.zext)(values, lanes.vector)

    return lanes(array, at), generate


@intrinsic
def store(typing_context: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Write INT or FLOAT to elements at, at + 1, ... of an array of 32-bit numbers, or INT's low bits to a narrower one."""
    size = array.dtype.bitwidth

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = lanes.vector if size == 32 else ir.VectorType(ir.IntType(size), WIDTH)
        pointer = builder.bitcast(address(context, builder, array, args[0], args[1], at), target.as_pointer())
        values = args[2] if size == 32 else builder.trunc(args[2], target)
        builder.store(values, pointer, align=size // 8)
        return context.get_dummy_value()

    return types.void(array, at, lanes), generate


@intrinsic
def gather(typing_context: Any, table: Any, index: Any) -> Any:
    """table[index] lane by lane, index below 2^31. Of a table of bytes four are read at each index: pad it by three."""
    lanes, size = _LANES_OF[table.dtype], table.dtype.bitwidth

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = _start(context, builder, table, args[0])
        pointers = builder.gep(data, [args[1]], source_etype=ir.IntType(size))
        pointers.type = ir.VectorType(ir.PointerType(), WIDTH)  # llvmlite thinks of scalar indices only
        name = f"llvm.masked.gather.v{WIDTH}{'f' if lanes is FLOAT else 'i'}32.v{WIDTH}p0"
        every, none = _constant(MASK.vector, [1] * WIDTH), ir.Constant(lanes.vector, ir.Undefined)
        values = call(builder, name, lanes.vector, pointers, _I32(size // 8), every, none)
        if size == 32:
            return values
        rest = _constant(INT.vector, [32 - size] * WIDTH)
        return (builder.ashr if table.dtype.signed else builder.lshr)(builder.shl(values, rest), rest)

    return lanes(table, index), generate


@intrinsic
def select(typing_context: Any, mask: Any, yes: Any, no: Any) -> Any:
    """`yes` where the mask is set, elsewhere `no`; vectors, or one of them a number."""
    lanes = yes if isinstance(yes, Lanes) else no

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = (spread(context, builder, args[i], kind, lanes) for i, kind in ((1, yes), (2, no)))
        return builder.select(args[0], *values)

    return lanes(mask, yes, no), generate


@intrinsic
def clip(typing_context: Any, value: Any, low: Any, high: Any) -> Any:
    """INT or FLOAT, no less than the number `low` and no more than the number `high`."""
    less, greater = _comparison("<")[value], _comparison(">")[value]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bottom, top = (spread(context, builder, args[i], kind, value) for i, kind in ((1, low), (2, high)))
        raised = builder.select(less(builder, args[0], bottom), bottom, args[0])
        return builder.select(greater(builder, raised, top), top, raised)

    return value(value, low, high), generate


@intrinsic
def bits(typing_context: Any, mask: Any) -> Any:
    """A mask as uint32, lane 0 lowest."""
    return types.uint32(mask), lambda context, builder, sig, args: builder.bitcast(args[0], _I32)


@intrinsic
def count(typing_context: Any, mask: Any) -> Any:
    """How many lanes are set, int64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.ctpop(builder.bitcast(args[0], _I32)), _I64)

    return types.int64(mask), generate


@intrinsic
def shift_right(typing_context: Any, value: Any, places: Any) -> Any:
    """INT taken as unsigned, shifted right by 0 to 31 places."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.lshr(args[0], spread(context, builder, args[1], places, INT))

    return INT(value, places), generate


@intrinsic
def below(typing_context: Any, value: Any, limit: Any) -> Any:
    """MASK of value < limit, both INT or a number, taken as unsigned."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = (spread(context, builder, args[i], kind, INT) for i, kind in ((0, value), (1, limit)))
        return builder.icmp_unsigned("<", *values)

    return MASK(value, limit), generate


@intrinsic
def divide(typing_context: Any, value: Any, divisor: Any) -> Any:
    """INT taken as unsigned, divided; exact where the quotient is below 2^31 and the divisor below 2^20.

    A quotient in float64 is off by 2^-53 of itself, and never as close as that to an integer that it is not.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        numbers = (builder.uitofp(arg, ir.VectorType(ir.DoubleType(), WIDTH)) for arg in args)
        return builder.fptosi(builder.fdiv(*numbers), INT.vector)

    return INT(value, divisor), generate


@intrinsic
def floor(typing_context: Any, value: Any) -> Any:
    """INT of the greatest integers not above FLOAT, |value| < 2^31."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fptosi(call(builder, f"llvm.floor.v{WIDTH}f32", FLOAT.vector, args[0]), INT.vector)

    return INT(value), generate


@intrinsic
def to_float(typing_context: Any, value: Any) -> Any:
    """FLOAT of INT, rounded to nearest."""
    return FLOAT(value), lambda context, builder, sig, args: builder.sitofp(args[0], FLOAT.vector)


@intrinsic
def reverse(typing_context: Any, value: Any) -> Any:
    """The lanes from last to first."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[0], _constant(INT.vector, range(WIDTH)[::-1]))

    return value(value), generate


@intrinsic
def expand(typing_context: Any, array: Any, at: Any, mask: Any) -> Any:
    """INT whose set lanes, in order, are array[at], array[at + 1], ... of a 32-bit array; the others are anything.

    Only as many elements are read as lanes are set.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.bitcast(address(context, builder, array, args[0], args[1], at), _I32.as_pointer())
        none = ir.Constant(INT.vector, ir.Undefined)
        return call(builder, f"llvm.masked.expandload.v{WIDTH}i32", INT.vector, pointer, args[2], none)

    return INT(array, at, mask), generate


@intrinsic
def compress(typing_context: Any, array: Any, at: Any, value: Any, mask: Any) -> Any:
    """Write the low 16 bits of the set lanes, in order, to array[at], array[at + 1], ... of a 16-bit array.

    Overwrites 32 elements in all. (A compressing store would not, but is slow microcode on AMD's Zen 4.)
    """
    half = WIDTH // 2
    lanes = ir.VectorType(_I32, half)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = address(context, builder, array, args[0], args[1], at)
        low = builder.and_(builder.bitcast(args[3], _I32), _I32((1 << half) - 1))
        for first in (0, half):
            part = _constant(lanes, range(first, first + half))
            values, chosen = (builder.shuffle_vector(arg, arg, part) for arg in args[2:])
            none = ir.Constant(lanes, ir.Undefined)
            packed = call(builder, f"llvm.experimental.vector.compress.v{half}i32", lanes, values, chosen, none)
            words = builder.trunc(packed, ir.VectorType(_I16, half))
            builder.store(words, builder.bitcast(pointer, words.type.as_pointer()), align=2)
            pointer = builder.gep(pointer, [builder.zext(builder.ctpop(low), _I64)])
        return context.get_dummy_value()

    return types.void(array, at, value, mask), generate
