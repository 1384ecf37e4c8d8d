"""Vectors of 32 float64 for compiled kernels, beside those of `nwc_core.vector`: sums of integers, exact below 2^53.

Sums may be fused or not, and added in any order: where all of them are exact integers nobody can tell.
"""

# mypy: disable-error-code="attr-defined, import-untyped, misc, no-untyped-call"
# numba and llvmlite have hardly any types.
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from nwc_core.vector import FLOAT, INT, WIDTH, Lanes, address, call, intrinsic, spread

DOUBLE = Lanes("float64", types.float64, ir.DoubleType())


@intrinsic
def no_doubles(typing_context: Any) -> Any:
    """Zeros."""
    return DOUBLE(), lambda context, builder, sig, args: ir.Constant(DOUBLE.vector, None)


@intrinsic
def no_floats(typing_context: Any) -> Any:
    """Zeros, as FLOAT."""
    return FLOAT(), lambda context, builder, sig, args: ir.Constant(FLOAT.vector, None)


@intrinsic
def load_doubles(typing_context: Any, array: Any, at: Any) -> Any:
    """Elements at, at + 1, ... of an array of float64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = address(context, builder, array, args[0], args[1], at)
        return builder.load(builder.bitcast(pointer, DOUBLE.vector.as_pointer()), align=8)

    return DOUBLE(array, at), generate


@intrinsic
def store_doubles(typing_context: Any, array: Any, at: Any, values: Any) -> Any:
    """Write them to elements at, at + 1, ... of an array of float64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = address(context, builder, array, args[0], args[1], at)
        builder.store(args[2], builder.bitcast(pointer, DOUBLE.vector.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, at, values), generate


@intrinsic
def add_product(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, where a may be a number."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = spread(context, builder, args[0], a, DOUBLE)
        return call(builder, f"llvm.fmuladd.v{WIDTH}f64", DOUBLE.vector, first, args[1], args[2])

    return DOUBLE(a, b, c), generate


@intrinsic
def add_float_product(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of FLOAT, exact below 2^24."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.fmuladd.v{WIDTH}f32", FLOAT.vector, *args)

    return FLOAT(a, b, c), generate


@intrinsic
def total(typing_context: Any, values: Any) -> Any:
    """The sum of the lanes of DOUBLE or FLOAT, float64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # Halves onto halves rather than lane after lane.
        found, width = args[0], WIDTH
        while width > 1:
            width //= 2
            chosen = (ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(k, k + width))) for k in (0, width))
            found = builder.fadd(*(builder.shuffle_vector(found, found, part) for part in chosen))
        one = builder.extract_element(found, ir.Constant(ir.IntType(32), 0))
        return context.cast(builder, one, values.element, types.float64)

    return types.float64(values), generate


@intrinsic
def doubles_of(typing_context: Any, values: Any) -> Any:
    """INT as float64."""
    return DOUBLE(values), lambda context, builder, sig, args: builder.sitofp(args[0], DOUBLE.vector)


@intrinsic
def times(typing_context: Any, a: Any, b: Any) -> Any:
    """a * b, rounded by itself; b may be a number."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fmul(args[0], spread(context, builder, args[1], b, DOUBLE))

    return DOUBLE(a, b), generate


@intrinsic
def nearest(typing_context: Any, values: Any) -> Any:
    """The nearest integers, ties to even."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.nearbyint.v{WIDTH}f64", DOUBLE.vector, args[0])

    return DOUBLE(values), generate


@intrinsic
def floats_of(typing_context: Any, values: Any) -> Any:
    """FLOAT, rounded to nearest."""
    return FLOAT(values), lambda context, builder, sig, args: builder.fptrunc(args[0], FLOAT.vector)


@intrinsic
def bits_of(typing_context: Any, values: Any) -> Any:
    """The bits of FLOAT as INT."""
    return INT(values), lambda context, builder, sig, args: builder.bitcast(args[0], INT.vector)
