# mypy: allow-untyped-defs
"""A vector of 16 floats as a type for numba kernels, for arithmetic on the rows of a tile.

In loops over short arrays the compiler often fails to prove that arrays do not overlap, and then does not vectorise. A
`Lanes` value is one LLVM vector instead, which stays in registers with any instruction set (one of AVX-512, two of
AVX2, four of NEON). Inside a kernel, `+ - * /` and comparisons work between lanes, and between lanes and floats, which
are broadcast. A comparison gives a `Mask` for `where`, and `&` combines masks. `min` and `max` choose lane by lane, the
second argument where one is NaN.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.core.errors import NumbaTypeError
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
    """The LLVM vector of an operand, which is lanes or a number."""
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
        operands = zip(values, signature.args, strict=True)
        return emit(builder, *(_broadcast(context, builder, *operand) for operand in operands))

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
def where(_context, condition, if_true, if_false):
    """Lanes of `if_true` where the mask `condition` is set, of `if_false` elsewhere; either may be a float."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        choices = (_broadcast(context, builder, *pair) for pair in zip(values[1:], signature.args[1:], strict=True))
        return builder.select(values[0], *choices)

    return lanes(condition, if_true, if_false), emit


@intrinsic
def full(_context, value):
    """Lanes that all hold `value`."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _broadcast(context, builder, values[0], signature.args[0])

    return lanes(value), emit


@intrinsic
def lane_numbers(_context):
    """Lanes that hold 0, 1, ..., 15."""
    return lanes(), lambda *_: ir.Constant(_VECTOR, [float(lane) for lane in range(LANES)])


@intrinsic
def lane_sum(_context, values):
    """Sum of all lanes, a float32."""

    def emit(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        total = values[0]
        for half in (8, 4, 2, 1):
            low, high = (_pick(builder, total, range(start, start + half)) for start in (0, half))
            total = builder.fadd(low, high)
        return builder.extract_element(total, _INT(0))

    return types.float32(values), emit


def _check_rows(array: types.Type) -> None:
    """Refuse, when a kernel is compiled, an array whose memory would be misread."""
    if not (isinstance(array, types.Array) and array.dtype == types.float32 and array.layout == "C"):
        raise NumbaTypeError(f"lanes are rows of a contiguous float32 array, not of {array}")


def _pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Address of `array[index]`, where index is an integer or a tuple; missing last indices are 0."""
    array_type, index_type = signature.args[:2]
    if isinstance(index_type, types.BaseTuple):
        kinds, indices = list(index_type), cgutils.unpack_tuple(builder, values[1])
    else:
        kinds, indices = [index_type], [values[1]]
    whole = [context.cast(builder, *pair, types.intp) for pair in zip(indices, kinds, strict=True)]
    whole += [context.get_constant(types.intp, 0)] * (array_type.ndim - len(whole))
    array = context.make_array(array_type)(context, builder, values[0])
    checked = context.enable_boundscheck
    if checked:  # the last lane is checked here, the first one below
        length = builder.extract_value(array.shape, array_type.ndim - 1)
        cgutils.do_boundscheck(context, builder, builder.add(whole[-1], length.type(LANES - 1)), length)
    start = cgutils.get_item_pointer(context, builder, array_type, array, whole, boundscheck=checked)
    return builder.bitcast(start, _VECTOR.as_pointer())


@intrinsic
def load(_context, array, index):
    """The 16 values of a float32 array that begin at `array[index]` and follow each other in memory.

    As with any array in a kernel, bounds are checked only with NUMBA_BOUNDSCHECK=1.
    """
    _check_rows(array)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, values), align=4)

    return lanes(array, index), emit


@intrinsic
def store(_context, array, index, values):
    """Write lanes, or a float to 16 places, where `load` would read."""
    _check_rows(array)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = _broadcast(context, builder, values[2], signature.args[2])
        builder.store(vector, _pointer(context, builder, signature, values), align=4)
        return context.get_dummy_value()

    return types.void(array, index, values), emit


@njit(inline="always")
def empty_rows(rows):
    """Uninitialised float32 array `[rows, 16]` whose rows do not straddle cache lines of 64 bytes."""
    spare = np.empty(rows * LANES + LANES - 1, np.float32)
    skip = (-spare.ctypes.data // 4) % LANES
    return spare[skip : skip + rows * LANES].reshape(rows, LANES)
