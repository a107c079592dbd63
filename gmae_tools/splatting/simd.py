"""A vector of 16 floats as a type for numba kernels, so that arithmetic on a row of a tile reads like arithmetic.

Loops over short arrays leave it to the compiler to find out that nothing overlaps, and it often gives up. A `Lanes` value
is one LLVM vector instead: it lives in registers whatever the instruction set (one AVX-512 register, two of AVX2, four of
NEON). Inside a kernel, `+ - * /` and the comparisons work between `Lanes`, and between `Lanes` and floats, which are
broadcast; a comparison gives a `Mask` for `where`, masks combine with `&`, and `min` and `max` work lane by lane.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_INT = ir.IntType(32)


class Lanes(types.Type):
    """numba type of 16 float32."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


class Mask(types.Type):
    """numba type of 16 truth values."""

    def __init__(self) -> None:
        super().__init__(name="Mask")


lanes, mask = Lanes(), Mask()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Lanes) -> None:
        super().__init__(manager, of, _VECTOR)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Mask) -> None:
        super().__init__(manager, of, _BITS)


def _broadcast(context: Any, builder: Any, value: Any, of: types.Type) -> Any:
    """The LLVM vector of an operand, be it lanes or a number."""
    if of == lanes:
        return value
    number = context.cast(builder, value, of, types.float32)
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, _INT(0))
    return _pick(builder, first, [0] * LANES)


def _pick(builder: Any, vector: Any, lane_numbers: Sequence[int]) -> Any:
    """The LLVM vector of some of a vector's lanes."""
    chosen = ir.Constant(ir.VectorType(_INT, len(lane_numbers)), list(lane_numbers))
    return builder.shuffle_vector(vector, vector, chosen)


def _define(function: Callable[..., Any], result: types.Type, emit: Callable[[Any, Any, Any], Any]) -> None:
    """Teach numba a binary function of lanes: `emit(builder, left, right)` writes its instruction."""

    def typer(left: types.Type, right: types.Type) -> types.Type | None:
        operands = (left, right)
        fits = lanes in operands and all(o == lanes or isinstance(o, types.Float) for o in operands)
        return result if fits else None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(
            builder,
            *(_broadcast(context, builder, *pair) for pair in zip(values, signature.args, strict=True)),
        )

    type_callable(function)(lambda _context: typer)
    for operands in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(function, *operands)(lower)


def _comparison(sign: str) -> Callable[[Any, Any, Any], Any]:
    return lambda builder, left, right: builder.fcmp_ordered(sign, left, right)


def _choice(sign: str) -> Callable[[Any, Any, Any], Any]:
    return lambda builder, left, right: builder.select(builder.fcmp_ordered(sign, left, right), left, right)


_define(operator.add, lanes, lambda builder, left, right: builder.fadd(left, right))
_define(operator.sub, lanes, lambda builder, left, right: builder.fsub(left, right))
_define(operator.mul, lanes, lambda builder, left, right: builder.fmul(left, right))
_define(operator.truediv, lanes, lambda builder, left, right: builder.fdiv(left, right))
_define(operator.lt, mask, _comparison("<"))
_define(operator.le, mask, _comparison("<="))
_define(operator.gt, mask, _comparison(">"))
_define(operator.ge, mask, _comparison(">="))
_define(min, lanes, _choice("<"))
_define(max, lanes, _choice(">"))


@type_callable(operator.and_)
def _type_and(_context: Any) -> Any:
    return lambda left, right: mask if left == right == mask else None


@lower_builtin(operator.and_, Mask, Mask)
def _lower_and(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
    return builder.and_(*values)


@intrinsic
def where(_context, condition, if_true, if_false):  # type: ignore[no-untyped-def]
    """Lanes of `if_true` where the mask `condition` is set, of `if_false` elsewhere; either may be a float."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        choices = (
            _broadcast(context, builder, *pair) for pair in zip(values[1:], signature.args[1:], strict=True)
        )
        return builder.select(values[0], *choices)

    return lanes(condition, if_true, if_false), emit


@intrinsic
def full(_context, value):  # type: ignore[no-untyped-def]
    """Lanes that all hold `value`."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _broadcast(context, builder, values[0], signature.args[0])

    return lanes(value), emit


@intrinsic
def lane_numbers(_context):  # type: ignore[no-untyped-def]
    """Lanes that hold 0, 1, ..., 15."""
    return lanes(), lambda *_: ir.Constant(_VECTOR, [float(lane) for lane in range(LANES)])


@intrinsic
def lane_sum(_context, values):  # type: ignore[no-untyped-def]
    """Sum of all lanes, a float32."""

    def emit(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        total = values[0]
        for half in (8, 4, 2, 1):
            low, high = (_pick(builder, total, range(start, start + half)) for start in (0, half))
            total = builder.fadd(low, high)
        return builder.extract_element(total, _INT(0))

    return types.float32(values), emit


def _row_pointer(context: Any, builder: Any, array_type: Any, array: Any, row: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    offset = builder.mul(row, ir.Constant(row.type, LANES))
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


@intrinsic
def load(_context, array, row):  # type: ignore[no-untyped-def]
    """Row of a contiguous float32 array `[rows, 16]`, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_row_pointer(context, builder, signature.args[0], *values), align=4)

    return lanes(array, row), emit


@intrinsic
def store(_context, array, row, values):  # type: ignore[no-untyped-def]
    """Write lanes to a row of a contiguous float32 array `[rows, 16]`, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _row_pointer(context, builder, signature.args[0], *args[:2])
        builder.store(_broadcast(context, builder, args[2], signature.args[2]), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, row, values), emit


@njit(nogil=True)
def empty_rows(rows):  # type: ignore[no-untyped-def]
    """Uninitialised float32 array `[rows, 16]` whose rows do not straddle cache lines of 64 bytes."""
    spare = np.empty(rows * LANES + LANES - 1, np.float32)
    skip = (-spare.ctypes.data // 4) % LANES
    return spare[skip : skip + rows * LANES].reshape(rows, LANES)
