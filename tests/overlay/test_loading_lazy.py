# SPDX-License-Identifier: Apache-2.0
"""A tensor that is still in its file does what a plain one does, and reads what is looked at."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from vllm.sm12x.loading.stream.lazy import LazyTensor, lazy
from vllm.sm12x.loading.stream.pieces import View

HEADER = 24


class File:
    """Bytes behind a header, of which views are read as numpy has them; notes what was read."""

    start = HEADER

    def __init__(self, whole: torch.Tensor) -> None:
        content = whole.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        self.content = np.frombuffer(b"\xff" * HEADER + content, dtype=np.uint8)
        self.read: list[tuple[int, ...]] = []

    def copy(self, view: View, dtype: torch.dtype, target: torch.Tensor) -> None:
        assert view.start == HEADER
        assert view.itemsize == dtype.itemsize == target.dtype.itemsize
        assert view.shape == tuple(target.shape)
        self.read.append(view.shape)
        first = view.start + view.offset * view.itemsize
        elements = np.lib.stride_tricks.as_strided(
            self.content[first:],
            (*view.shape, view.itemsize),
            (*(stride * view.itemsize for stride in view.strides), 1),
        )
        values = torch.from_numpy(elements.copy()).reshape(-1).view(dtype).reshape(view.shape)
        target.copy_(values)


def pair(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[LazyTensor, torch.Tensor, File]:
    """A tensor in a file, the same in memory, and the file."""
    count = int(np.prod(shape))
    plain = torch.arange(1, count + 1, dtype=torch.float32).reshape(shape).to(dtype)
    file = File(plain)
    return lazy(file, shape, dtype), plain, file


def same(found: Any, expected: torch.Tensor) -> None:
    taken = torch.empty_like(expected)
    taken.copy_(found)
    assert tuple(found.shape) == tuple(expected.shape)
    assert found.dtype == expected.dtype
    assert torch.equal(taken.float(), expected.float())


VIEWS: list[Callable[[Any], Any]] = [
    lambda t: t[1],
    lambda t: t[:, 1:3],
    lambda t: t[:, ::2],
    lambda t: t.t(),
    lambda t: t.narrow(1, 2, 2),
    lambda t: t.reshape(2, 2, 6),
    lambda t: t.unsqueeze(0),
    lambda t: t.permute(1, 0)[2:4, 1:],
    lambda t: t[2].expand(3, 6),
]


@pytest.mark.parametrize("look", VIEWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_a_view_reads_its_part_and_no_more(look: Callable[[Any], Any], dtype: torch.dtype) -> None:
    tensor, plain, file = pair(4, 6, dtype=dtype)

    part = look(tensor)

    assert isinstance(part, LazyTensor)
    assert part.stride() == look(plain).stride()
    assert file.read == []
    same(part, look(plain))
    assert file.read == [tuple(part.shape)]


@pytest.mark.parametrize(
    "cut", [lambda t: t.split(3, 1), lambda t: t.chunk(2), lambda t: t.unbind()]
)
def test_parts_of_a_tensor_stay_in_the_file(cut: Callable[[Any], Any]) -> None:
    tensor, plain, file = pair(4, 6)

    parts = cut(tensor)

    assert file.read == []
    assert len(parts) == len(cut(plain))
    for part, expected in zip(parts, cut(plain), strict=True):
        assert isinstance(part, LazyTensor)
        same(part, expected)


def test_strides_are_those_of_a_dense_tensor() -> None:
    for shape in ((), (5,), (2, 3, 4), (0, 4), (2, 0, 3), (1, 1)):
        tensor = lazy(File(torch.zeros(0)), shape, torch.float32)

        assert tuple(tensor.shape) == shape
        assert tensor.stride() == torch.empty(shape).stride()


def test_it_is_spread_over_a_larger_target() -> None:
    tensor, plain, file = pair(3)
    target = torch.zeros(2, 3)

    target.copy_(tensor)

    assert torch.equal(target, plain.expand(2, 3))
    assert file.read == [(2, 3)]


def test_nothing_is_read_for_a_target_without_memory() -> None:
    tensor, _, file = pair(4, 6)

    torch.empty(4, 6, device="meta").copy_(tensor)

    assert file.read == []


def test_another_dtype_is_converted() -> None:
    tensor, plain, file = pair(2, 3, dtype=torch.bfloat16)

    assert torch.equal(tensor.to(torch.float64), plain.to(torch.float64))
    assert torch.equal(tensor.float(), plain.float())
    assert file.read == [(2, 3)] * 2


@pytest.mark.parametrize("look", VIEWS)
def test_a_clone_is_a_plain_tensor_with_the_strides_of_one(look: Callable[[Any], Any]) -> None:
    tensor, plain, _ = pair(4, 6)

    clone = look(tensor).clone()

    assert type(clone) is torch.Tensor
    assert torch.equal(clone, look(plain))
    assert clone.stride() == look(plain).clone().stride()
    clone.add_(1)
    assert torch.equal(look(tensor).clone(), look(plain))


def test_what_was_read_for_a_tensor_is_kept_with_it() -> None:
    tensor, plain, file = pair(4, 6)

    assert tensor.tolist() == plain.tolist()
    assert tensor.data_ptr() == tensor.data_ptr()
    assert tensor.numpy().tolist() == plain.tolist()
    same(tensor, plain)
    assert file.read == [(4, 6)]
    assert tensor[1].tolist() == plain[1].tolist()
    assert file.read == [(4, 6), (6,)]


def test_what_asks_for_memory_gets_it() -> None:
    tensor, plain, _ = pair(4, 6)

    assert tensor.untyped_storage().nbytes() == 4 * 6 * 4
    assert np.asarray(tensor).tolist() == plain.tolist()
    assert torch.equal(torch.from_dlpack(pair(4, 6)[0]), plain)
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), plain)
    assert repr(tensor[0]) == "LazyTensor(shape=(6,), dtype=torch.float32)"


def test_a_deep_copy_is_a_tensor_of_its_own() -> None:
    tensor, plain, file = pair(4, 6)

    copied = copy.deepcopy(tensor)
    copied.zero_()

    assert type(copied) is torch.Tensor
    assert torch.equal(tensor.clone(), plain)
    assert file.read == [(4, 6)] * 2


def test_a_write_reaches_all_views_and_the_file_is_read_once() -> None:
    tensor, plain, file = pair(4, 6)
    before, row = tensor[:, 2], tensor[1]

    returned = row.add_(100)
    plain[1].add_(100)

    assert returned is row
    assert file.read == [(4, 6)]
    for found, expected in (
        (tensor, plain),
        (before, plain[:, 2]),
        (tensor.t()[2:4], plain.t()[2:4]),
    ):
        assert torch.equal(found.clone(), expected)
        same(found, expected)
    tensor[:, 0] = 7
    plain[:, 0] = 7
    assert tensor.tolist() == plain.tolist()
    assert file.read == [(4, 6)]


def test_a_write_to_a_view_of_bytes_reaches_the_numbers() -> None:
    tensor, _, _ = pair(4, dtype=torch.float8_e4m3fn)

    tensor.view(torch.uint8).fill_(0x38)  # e4m3's 1.0

    assert tensor.float().tolist() == [1.0] * 4


def test_an_output_argument_is_written() -> None:
    tensor, plain, _ = pair(2, 3)

    torch.add(plain, plain, out=tensor)

    assert torch.equal(tensor.clone(), 2 * plain)


def test_operations_take_several_of_them_in_a_list() -> None:
    tensor, plain, file = pair(4, 6)

    assert torch.equal(torch.cat([tensor[:2], tensor[3:]]), torch.cat([plain[:2], plain[3:]]))
    assert torch.equal(torch.stack((tensor[0], plain[1])), plain[:2])
    assert file.read == [(2, 6), (1, 6), (6,)]


class Wrapper(torch.Tensor):  # type: ignore[misc]
    """A tensor whose operations know nothing of lazy ones, as quantised parameters have them."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Wrapper":
        made: Any = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if LazyTensor in types:
            return NotImplemented
        return func(*(a.inner if isinstance(a, Wrapper) else a for a in args), **(kwargs or {}))


def test_a_target_with_operations_of_its_own_gets_a_plain_tensor() -> None:
    tensor, plain, file = pair(2, 3)
    target = Wrapper(torch.zeros(2, 3))

    target.copy_(tensor)

    assert torch.equal(target.inner, plain)
    assert file.read == [(2, 3)]
