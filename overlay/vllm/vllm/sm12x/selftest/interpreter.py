# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter, made right about bfloat16: what runs the kernels where there is no GPU.

The interpreter of Triton 3.6 to 3.9 keeps a bfloat16 as the uint16 of its bits and then computes
with those integers: products of bits, dots of bits, and casts that cut instead of rounding. Here
such operands are widened to float32, the interpreter does its work, and the result is rounded to
nearest even, as the GPU does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

QUIET_NAN = 0x7FC0


def widen(bits: Any) -> Any:
    """Return the float32 values of an array of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: Any) -> Any:
    """Return the bfloat16 bits of an array of float32 values, rounded to nearest even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    tie_to_even = (bits >> 16) & 1
    rounded = ((bits.astype(np.uint64) + 0x7FFF + tie_to_even) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(QUIET_NAN), rounded)


def mend() -> None:
    """Change the interpreter of this process, once."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    if getattr(builder, "computes_bfloat16", False):
        return
    builder.computes_bfloat16 = True

    def is_bfloat16(value: Any) -> bool:
        return isinstance(value, handle) and value.dtype.scalar == tl.bfloat16

    def in_float32(method: Callable[..., Any], *, rounds: bool) -> Callable[..., Any]:
        def compute(self: Any, *operands: Any) -> Any:
            if not any(map(is_bfloat16, operands)):
                return method(self, *operands)
            wide = [handle(widen(o.data), tl.float32) if is_bfloat16(o) else o for o in operands]
            result = method(self, *wide)
            if rounds and result.data.dtype == np.float32:
                return handle(narrow(result.data), tl.bfloat16)
            return result

        return compute

    builder.binary_op = in_float32(builder.binary_op, rounds=True)
    builder.unary_op = in_float32(builder.unary_op, rounds=True)
    builder.create_dot = in_float32(builder.create_dot, rounds=False)
    patch = interpreter._patch_lang

    def patch_once(function: Any) -> Any:
        # Each call of a function from a kernel would patch the whole language again.
        used = [m for m in function.__globals__.values() if m is tl or m is tl.core]
        if used and not any(tl.core.is_builtin(module.load) for module in used):
            return None
        return patch(function)

    interpreter._patch_lang = patch_once
    convert = interpreter._convert_float

    def convert_float(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            return narrow(data.view(np.float32))
        return convert(data, source, target, rounding)

    interpreter._convert_float = convert_float
