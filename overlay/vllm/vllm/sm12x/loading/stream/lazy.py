# SPDX-License-Identifier: Apache-2.0
"""A tensor that is still in its file.

It has the shape, strides and dtype of a CPU tensor and no memory. Operations that only look at it
another way (narrow, view, transpose, ...) give another such tensor. Only `copy_` from it reads,
what has been narrowed to, straight to where it goes. For anything else it becomes a plain tensor
first, of that part alone; a write to it makes its whole tensor a plain one, which all views share.
"""

from functools import cache
from typing import Any, Protocol

import torch

from .pieces import View

aten: Any = torch.ops.aten


class Origin(Protocol):
    """Where a tensor's elements come from."""

    start: int

    def copy(self, view: View, dtype: Any, target: Any) -> None:
        """Read a view into `target`, a plain tensor of its shape."""


class Source:
    """What all views of one tensor of a file share: its origin, and its memory once it has any."""

    def __init__(self, origin: Origin, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.origin, self.shape, self.dtype = origin, shape, dtype
        self._own: torch.Tensor | None = None

    @property
    def own(self) -> torch.Tensor | None:
        return self._own

    def take(self) -> torch.Tensor:
        """Return the whole tensor in memory, which from now on is what all views look at."""
        if self._own is None:
            whole = torch.empty(self.shape, dtype=self.dtype, device="cpu")
            view = View(
                start=self.origin.start,
                itemsize=self.dtype.itemsize,
                shape=tuple(whole.shape),
                strides=tuple(whole.stride()),
            )
            self.origin.copy(view, self.dtype, whole)
            self._own = whole
        return self._own


class LazyTensor(torch.Tensor):  # type: ignore[misc] # torch is Any where it isn't installed
    """See the module. Made by `lazy`; views are made by torch's own operations."""

    source: Source

    @staticmethod
    def __new__(
        cls,
        source: Source,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        offset: int,
        dtype: torch.dtype,
    ) -> "LazyTensor":
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=strides, storage_offset=offset, dtype=dtype, device="cpu"
        )
        made.source = source
        made.plain_copy = None
        return made  # type: ignore[no-any-return]

    plain_copy: torch.Tensor | None
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.copy_.default and _can_be_read_into(args[0], args[1]):
            args[1].read_into(args[0])
            return args[0]
        first = args[0] if args else None
        if isinstance(first, LazyTensor):
            if _is_view(func):
                return first.viewed(func, args[1:], kwargs)
            if func is aten._to_copy.default or func is aten.clone.default:
                return func(first.plain(keep=False), *args[1:], **kwargs)
        return _run_plain(func, args, kwargs)

    def viewed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Apply an operation that only looks at the tensor another way."""
        if self.source.own is not None:
            return func(self.plain(), *args, **kwargs)
        bare = torch.empty(0, dtype=self.dtype, device="meta")
        bare = bare.as_strided(self.shape, self.stride(), self.storage_offset())
        result = func(bare, *args, **kwargs)
        if isinstance(result, torch.Tensor):
            return self._like(result)
        return [self._like(part) for part in result]

    def _like(self, bare: torch.Tensor) -> "LazyTensor":
        return LazyTensor(
            self.source,
            tuple(bare.shape),
            tuple(bare.stride()),
            int(bare.storage_offset()),
            bare.dtype,
        )

    def description(self, shape: tuple[int, ...] | None = None) -> View:
        """Return which bytes of the file this is, spread to `shape` if that is given."""
        strides = tuple(self.stride())
        if shape is not None and shape != tuple(self.shape):
            bare = torch.empty_strided(self.shape, strides, device="meta").expand(shape)
            strides = tuple(bare.stride())
        return View(
            start=self.source.origin.start,
            itemsize=self.dtype.itemsize,
            shape=tuple(self.shape) if shape is None else shape,
            strides=strides,
            offset=int(self.storage_offset()),
        )

    def read_into(self, target: torch.Tensor) -> None:
        """Copy this part of the file into a plain tensor, which it is spread over if need be."""
        if target.device.type == "meta":
            return
        held = self.plain_copy if self.source.own is None else self.plain()
        if held is not None:
            target.copy_(held)
            return
        self.source.origin.copy(self.description(tuple(target.shape)), self.dtype, target)

    def plain(self, *, keep: bool = True) -> torch.Tensor:
        """Return this part in memory: read now, or what was read before for this very tensor."""
        own = self.source.own
        if own is not None:
            bytes_of = own.reshape(-1).view(torch.uint8).view(self.dtype)
            return bytes_of.as_strided(self.shape, self.stride(), self.storage_offset())
        if self.plain_copy is not None:
            return self.plain_copy
        bare = torch.empty_strided(self.shape, self.stride(), dtype=self.dtype, device="meta")
        made = torch.empty_like(bare, device="cpu")  # with the strides that a clone has
        self.source.origin.copy(self.description(), self.dtype, made)
        if keep:
            self.plain_copy = made
        return made

    # What asks for memory without an operation of torch's.
    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain().numpy(*args, **kwargs)

    def data_ptr(self) -> int:
        return int(self.plain().data_ptr())

    def untyped_storage(self) -> Any:
        return self.plain().untyped_storage()

    def tolist(self) -> Any:
        return self.plain().tolist()

    def pin_memory(self, *args: Any) -> torch.Tensor:
        return self.plain().pin_memory(*args)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain().__array__(*args, **kwargs)

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain().__dlpack__(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.plain(keep=False).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.plain().__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"LazyTensor(shape={tuple(self.shape)}, dtype={self.dtype})"


def lazy(origin: Origin, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    """Return a tensor that stays in its file until it is copied from."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return LazyTensor(Source(origin, shape, dtype), shape, tuple(reversed(strides)), 0, dtype)


def _can_be_read_into(target: Any, source: Any) -> bool:
    """Whether `target` is a tensor of torch's own that takes bytes, and `source` a lazy one."""
    plain = type(target).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    return plain and isinstance(source, LazyTensor)


@cache
def _is_view(func: Any) -> bool:
    """Whether an operation's results are its first argument, looked at another way."""
    returns = func._schema.returns
    aliases = [value.alias_info for value in returns]
    return bool(returns) and all(a is not None and not a.is_write for a in aliases)


@cache
def _written(func: Any) -> frozenset[int | str]:
    """Places and names of the arguments that an operation writes to."""
    found: set[int | str] = set()
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found |= {place, argument.name}
    return frozenset(found)


def _run_plain(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on plain tensors in place of the lazy ones."""
    written = _written(func)

    def made_plain(value: Any, place: int | str) -> Any:
        if isinstance(value, LazyTensor):
            if place in written:
                value.source.take()
            return value.plain()
        if isinstance(value, (list, tuple)):
            return type(value)(made_plain(each, place) for each in value)
        return value

    plain_args = [made_plain(value, place) for place, value in enumerate(args)]
    plain_kwargs = {name: made_plain(value, name) for name, value in kwargs.items()}
    result = func(*plain_args, **plain_kwargs)
    for place, plain in enumerate(plain_args):
        if place in written and result is plain:
            return args[place]
    return result
