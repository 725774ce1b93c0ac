# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a CUDA graph on a machine without one.

What PyTorch and Triton are asked for while a graph is captured is noted, with the tensors that it
was asked on, and a replay does all of it again into the same memory: Python runs once, as with the
real thing. A capture stops where a real one would: where a value is read back from a tensor, or a
tensor is made whose size depends on one.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class ReadBackError(Exception):
    """A capture wanted to know what a tensor holds."""


class Graph(TorchDispatchMode):  # type: ignore[misc]
    """Captures what runs inside of it. `launches` are the kernels' names, grids and arguments."""

    def __init__(self, *, execute: bool = True) -> None:
        super().__init__()
        self.launches: list[tuple[Any, ...]] = []
        self.allocated = 0
        self._made: dict[int, torch.Tensor] = {}
        self._steps: list[Callable[[], Any]] = []
        self._patch, self._execute = pytest.MonkeyPatch(), execute

    def __enter__(self) -> "Graph":
        from triton.runtime import interpreter

        run = interpreter.GridExecutor.__call__

        def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
            def again() -> None:
                # Its copies between host and device are the interpreter's own.
                with _disable_current_modes():
                    run(executor, *args, **kwargs)

            self.launches.append(
                (
                    executor.fn.__name__,
                    executor.grid,
                    [self._named(value) for value in args],
                    {name: self._named(value) for name, value in kwargs.items()},
                )
            )
            self._steps.append(again)
            if self._execute:
                again()

        self._patch.setattr(interpreter.GridExecutor, "__call__", launch)
        # On the CPU it looks into memory without asking PyTorch for anything.
        self._patch.setattr(torch.Tensor, "tolist", _refuse)
        super().__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        self._patch.undo()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(tag in func.tags for tag in READS):
            raise ReadBackError(str(func))
        made = func(*args, **kwargs)
        if func.is_view or func in (torch.ops.aten.detach.default,):
            return made
        old = _memory((args, kwargs))
        new = [value for value in _tensors(made) if value.untyped_storage().data_ptr() not in old]
        self.allocated += sum(value.numel() * value.itemsize for value in new)
        # Kept alive, so that no other tensor comes to lie where one of these was.
        self._made |= {value.untyped_storage().data_ptr(): value for value in new}
        if "empty" in func.__name__:
            return made

        def again() -> None:
            for kept, value in zip(_tensors(made), _tensors(func(*args, **kwargs)), strict=True):
                if kept.data_ptr() != value.data_ptr():
                    kept.copy_(value)

        self._steps.append(again)
        return made

    def _named(self, value: Any) -> Any:
        """An argument as a graph holds it: where a tensor is, unless the capture made it."""
        if not isinstance(value, torch.Tensor):
            return value
        own = value.untyped_storage().data_ptr() in self._made
        place = "made here" if own else value.data_ptr()
        return place, tuple(value.shape), value.stride(), value.dtype

    def replay(self) -> None:
        """Do all of it again, on what the same tensors hold now."""
        for step in self._steps:
            step()


def _refuse(tensor: torch.Tensor) -> None:
    raise ReadBackError("tolist")


def _tensors(value: Any) -> list[torch.Tensor]:
    return [part for part in tree_leaves(value) if isinstance(part, torch.Tensor)]


def _memory(value: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(value)}
