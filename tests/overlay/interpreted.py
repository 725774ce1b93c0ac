# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter for tests: switched on for the kernels alone, and made right about bfloat16.

The interpreter of Triton 3.6 to 3.9 keeps a bfloat16 as the uint16 of its bits and then computes
with those integers: products of bits, dots of bits, and casts that cut instead of rounding. Here
such operands are widened to float32, the interpreter does its work, and the result is rounded to
nearest even, as the GPU does.
"""

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SWITCH = "TRITON_INTERPRET"
QUIET_NAN = 0x7FC0


def kernels(*names: str) -> list[ModuleType]:
    """Import modules of vllm.sm12x.kernels so that their kernels run on the CPU.

    A kernel is interpreted if the switch is on when its module is imported; it is off again after
    that, for nothing else in this process must see it.
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        pytest.importorskip("triton", reason="the interpreter is part of Triton")
        _interpret_library()
        _mend()
        return [importlib.import_module(f"vllm.sm12x.kernels.{name}") for name in names]
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def widen(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bfloat16 bits of float32 values, rounded to nearest even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    tie_to_even = (bits >> 16) & 1
    rounded = ((bits.astype(np.uint64) + 0x7FFF + tie_to_even) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(QUIET_NAN), rounded)


def _interpret_library() -> None:
    """Do for Triton's own functions, such as tl.sum, what the switch does if nothing was first."""
    from triton import language
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    # Imported at the first launch otherwise, and it wants to find the functions as they were.
    importlib.import_module("triton.experimental.gluon")
    for module in (language, standard):
        for name, function in list(vars(module).items()):
            if isinstance(function, JITFunction):
                setattr(module, name, InterpretedFunction(function.fn))


def _mend() -> None:
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
