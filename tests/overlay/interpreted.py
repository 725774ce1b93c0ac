# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter for tests: switched on for the kernels alone."""

import importlib
import os
from types import ModuleType

import pytest
from vllm.sm12x.selftest.interpreter import mend

SWITCH = "TRITON_INTERPRET"


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
        mend()
        return [importlib.import_module(f"vllm.sm12x.kernels.{name}") for name in names]
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


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
