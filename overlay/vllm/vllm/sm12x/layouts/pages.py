# SPDX-License-Identifier: Apache-2.0
"""The pages of a cache: made, checked, written and read by slot."""

import functools

import torch

from .formats import LAYOUTS, LOAD_BYTES, SCALE_ROW_BYTES, Layout
from .values import ScaleRule, exponents_to_scales, quantize, scales_to_exponents


def empty_cache(
    layout: Layout,
    pages: int,
    page_size: int,
    *,
    page_stride: int | None = None,
    fill: int | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Allocate a cache as vLLM does: (pages, page_size, token_bytes) uint8 with padded pages.

    `page_stride` is the distance of two pages in bytes, by default the smallest. Every byte is
    `fill`, or undefined; 255 makes each value and scale of each slot not a number.
    """
    stride = layout.page_bytes(page_size) if page_stride is None else page_stride
    storage = torch.empty(pages * stride, dtype=torch.uint8, device=device)
    if fill is not None:
        storage.fill_(fill)
    shape = (pages, page_size, layout.token_bytes)
    return storage.as_strided(shape, (stride, layout.token_bytes, 1))


def check_cache(cache: torch.Tensor, name: str = "cache") -> Layout:
    """Return the layout of a cache of shape (pages, page size, bytes a token), uint8.

    The last dimension tells the layout, as it tells FlashMLA. ValueError, naming the argument as
    `name`, for another shape or dtype, and for strides that a token can't be found by.
    """
    start = cache.data_ptr() % LOAD_BYTES
    layout, expected = _judge(tuple(cache.shape), cache.stride(), cache.dtype, start)
    if layout is None:
        raise ValueError(f"{name} is {describe(cache)}; expected {expected}")
    return layout


@functools.lru_cache(maxsize=1024)  # asked several times for each layer of each step
def _judge(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, start: int
) -> tuple[Layout | None, str]:
    """Return the layout of such a cache, or None and what was expected instead."""
    layout = LAYOUTS.get(shape[2]) if len(shape) == 3 else None
    if layout is None or dtype != torch.uint8:
        return None, "(pages, page size, 584 or 656) uint8"
    pages, page_size, token_bytes = shape
    stride, row_stride, byte_stride = strides
    if page_size < 1:
        return None, "at least one token a page"
    if byte_stride != 1 or (page_size > 1 and row_stride != token_bytes):
        return None, f"strides (any, {token_bytes}, 1) within a page"
    if pages > 1 and stride < page_size * token_bytes:
        return None, f"pages {page_size * token_bytes} bytes apart or more"
    if (pages > 1 and stride % LOAD_BYTES) or start:
        return None, f"pages that start at multiples of {LOAD_BYTES} bytes"
    return layout, ""


def token_offsets(
    layout: Layout, slots: torch.Tensor, page_size: int, page_stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the byte offsets of each slot's row and of its scales from the cache's first byte.

    `slots` are page * page_size + place in the page, any integer dtype; offsets are int64.
    """
    slots = slots.long()
    page = torch.div(slots, page_size, rounding_mode="floor") * page_stride
    place = slots % page_size
    rows = page + place * layout.row_bytes
    if layout.block_packed:
        return rows, page + page_size * layout.row_bytes + place * SCALE_ROW_BYTES
    return rows, rows + layout.nope_dim


def pack(
    cache: torch.Tensor,
    slots: torch.Tensor,
    kv: torch.Tensor,
    *,
    rule: ScaleRule = ScaleRule.POWER_OF_TWO,
) -> None:
    """Quantise `kv` (n, head_dim) and write it into `slots` (n,) of `cache`, in place.

    A negative slot is padding: its row is not written. A NaN stays one and doesn't count for its
    group's scale; an infinity makes its whole group NaN when it is read. ValueError for other
    shapes, for slots beyond the cache, and for a rule that the layout can't hold.
    """
    layout = check_cache(cache)
    _check_slots(cache, slots, lowest=None)
    expected = (slots.numel(), layout.head_dim)
    if kv.shape != expected:
        raise ValueError(f"kv is {describe(kv)}; expected {expected} for {layout.name}")
    if layout.block_packed and rule is not ScaleRule.POWER_OF_TWO:
        raise ValueError(f"rule is {rule.value!r}; {layout.name} holds powers of two only")
    written = slots >= 0
    codes, scales = quantize(layout, kv[written][:, : layout.nope_dim], rule=rule)
    rope = kv[written][:, layout.nope_dim :].to(torch.bfloat16).contiguous()
    rows, scale_rows = _offsets(layout, cache, slots[written])
    flat = _flat(cache)
    _put(flat, rows, codes.view(torch.uint8))
    _put(flat, rows + layout.rope_offset_bytes, rope.view(torch.uint8))
    _put(flat, scale_rows, _scale_bytes(layout, scales))


def unpack(
    cache: torch.Tensor, slots: torch.Tensor, *, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Read `slots` (n,) of `cache` and return their values, (n, head_dim) of `dtype`.

    Values are exact in float32 and wider, but for products beyond float32's range. ValueError
    for a slot outside the cache.
    """
    layout = check_cache(cache)
    _check_slots(cache, slots, lowest=0)
    rows, scale_rows = _offsets(layout, cache, slots)
    flat = _flat(cache)
    codes = _take(flat, rows, layout.nope_dim).view(torch.float8_e4m3fn).float()
    rope = _take(flat, rows + layout.rope_offset_bytes, 2 * layout.rope_dim).view(torch.bfloat16)
    if layout.block_packed:
        scales = exponents_to_scales(_take(flat, scale_rows, layout.groups))
    else:
        scales = _take(flat, scale_rows, 4 * layout.groups).view(torch.float32)
    nope = codes * scales.repeat_interleave(layout.group_dim, dim=1)
    return torch.cat([nope, rope.float()], dim=1).to(dtype)


def _scale_bytes(layout: Layout, scales: torch.Tensor) -> torch.Tensor:
    if not layout.block_packed:
        return scales.contiguous().view(torch.uint8)
    padding = SCALE_ROW_BYTES - layout.groups
    return torch.nn.functional.pad(scales_to_exponents(scales), (0, padding))


def _offsets(
    layout: Layout, cache: torch.Tensor, slots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return token_offsets(layout, slots, cache.shape[1], cache.stride(0))


def _flat(cache: torch.Tensor) -> torch.Tensor:
    """Every byte from a cache's first to its last, one dimension; shares memory with `cache`."""
    pages, page_size, token_bytes = cache.shape
    extent = (pages - 1) * cache.stride(0) + page_size * token_bytes if pages else 0
    return cache.as_strided((extent,), (1,))


def _take(flat: torch.Tensor, starts: torch.Tensor, count: int) -> torch.Tensor:
    return flat[starts.unsqueeze(1) + torch.arange(count, device=flat.device)]


def _put(flat: torch.Tensor, starts: torch.Tensor, values: torch.Tensor) -> None:
    flat[starts.unsqueeze(1) + torch.arange(values.shape[1], device=flat.device)] = values


def _check_slots(cache: torch.Tensor, slots: torch.Tensor, *, lowest: int | None) -> None:
    if slots.dim() != 1 or slots.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"slots is {describe(slots)}; expected (n,) int32 or int64")
    count = cache.shape[0] * cache.shape[1]
    outside = slots[(slots >= count) if lowest is None else (slots >= count) | (slots < lowest)]
    if outside.numel():
        raise ValueError(f"slots has {int(outside[0])}; the cache has slots 0 to {count - 1}")


def describe(tensor: torch.Tensor) -> str:
    """Say a tensor's shape, dtype and strides, for messages."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{tuple(tensor.shape)} {dtype}, strides {tensor.stride()}"
