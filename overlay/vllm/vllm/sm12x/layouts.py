# SPDX-License-Identifier: Apache-2.0
"""The two fp8_ds_mla cache layouts: where each byte of a token is, and how values become bytes.

`V4` (DeepSeek V4, 584 bytes a token). A page holds the data rows of all its tokens, 448 e4m3 values
and 64 bfloat16 RoPE values each, and behind them the scale rows of all its tokens, seven UE8M0
exponents and a zero each; then it is padded to a multiple of 576 bytes. The cache's tensor says
(pages, page size, 584), but `cache[page, i]` is not token i: only `cache.stride(0)` counts.

`V32` (DeepSeek V3.2 and GLM-5.x, 656 bytes a token). Row by row: 512 e4m3 values, four float32
scales, 64 bfloat16 RoPE values.

Pages of other layers may lie between two pages of a cache, so a page's place is its number times
`stride(0)`. A cache outgrows 2 GiB, so that product is taken in int64.

Sources: vLLM's `flashmla_sparse.py`, `quantize_and_insert_k_cache` and `concat_and_cache_ds_mla`,
and the docstring of FlashMLA's `flash_mla_with_kvcache`.
"""

import functools
from dataclasses import dataclass
from enum import Enum

import torch

E4M3_MAX = 448.0
# Vector loads read 16 bytes at a time, so every row of a cache must start at a multiple of them.
LOAD_BYTES = 16
SCALE_ROW_BYTES = 8
# UE8M0 is the exponent field of a float32; its code 0 stands for a subnormal number.
EXPONENT_BIAS = 127
EXPONENT_SHIFT = 23


class ScaleRule(str, Enum):
    """How a group's scale follows from its largest magnitude."""

    POWER_OF_TWO = "power of two"  # rounded up; the only rule that V4's exponents can hold
    EXACT = "exact"  # amax / 448, as vLLM 0.20 wrote V3.2 caches and GLM checkpoints may have


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout. Sizes in bytes end in `_bytes`, all others count values.

    `amax_floor` and `scale_floor` bound a power-of-two scale from below: upstream's two writers do
    it before and after the division by 448.
    """

    name: str
    token_bytes: int
    row_bytes: int
    nope_dim: int
    rope_dim: int
    group_dim: int
    page_alignment_bytes: int
    block_packed: bool
    amax_floor: float
    scale_floor: float

    @property
    def head_dim(self) -> int:
        """Values of one token: the width of a key."""
        return self.nope_dim + self.rope_dim

    @property
    def groups(self) -> int:
        """Scales of one token."""
        return self.nope_dim // self.group_dim

    @property
    def rope_offset_bytes(self) -> int:
        """Where the RoPE values start in a token's row."""
        return self.row_bytes - 2 * self.rope_dim

    def page_bytes(self, page_size: int) -> int:
        """Bytes from one page to the next when nothing lies between them."""
        units = -(-page_size * self.token_bytes // self.page_alignment_bytes)
        return units * self.page_alignment_bytes


V4 = Layout(
    name="V4",
    token_bytes=584,
    row_bytes=576,
    nope_dim=448,
    rope_dim=64,
    group_dim=64,
    page_alignment_bytes=576,
    block_packed=True,
    amax_floor=1e-4,
    scale_floor=0.0,
)
V32 = Layout(
    name="V3.2",
    token_bytes=656,
    row_bytes=656,
    nope_dim=512,
    rope_dim=64,
    group_dim=128,
    page_alignment_bytes=1,
    block_packed=False,
    amax_floor=0.0,
    scale_floor=1e-4,
)
LAYOUTS = {layout.token_bytes: layout for layout in (V4, V32)}


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


def quantize(
    layout: Layout, nope: torch.Tensor, *, rule: ScaleRule = ScaleRule.POWER_OF_TWO
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return e4m3 codes (n, nope_dim) and float32 scales (n, groups) of `nope` (n, nope_dim).

    V4:   s = 2^ceil(log2(max(amax, 1e-4) / 448)), q = clamp(x / s, -448, 448)
    V3.2: s = 2^ceil(log2(max(amax / 448, 1e-4))), or exactly max(amax / 448, the least normal)
    """
    x = nope.float().unflatten(1, (layout.groups, layout.group_dim))
    # NaN must not hide its neighbours' magnitude; CUDA's fmaxf ignores it as well.
    amax = x.abs().nan_to_num(nan=0.0, posinf=torch.inf).amax(dim=2)
    if rule is ScaleRule.EXACT:
        scales = (amax / E4M3_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    else:
        least = amax.clamp(min=layout.amax_floor) / E4M3_MAX
        scales = _power_of_two_above(least.clamp(min=layout.scale_floor))
    q = (x / scales.unsqueeze(2)).clamp(-E4M3_MAX, E4M3_MAX)
    return q.flatten(1).to(torch.float8_e4m3fn), scales


def scales_to_exponents(scales: torch.Tensor) -> torch.Tensor:
    """Encode float32 powers of two as UE8M0: exponent + 127, clamped to [0, 255]."""
    _, exponent = torch.frexp(scales)
    exponent = torch.where(scales.isinf(), EXPONENT_BIAS + 2, exponent)
    return (exponent - 1 + EXPONENT_BIAS).clamp(0, 255).to(torch.uint8)


def exponents_to_scales(exponents: torch.Tensor) -> torch.Tensor:
    """Decode UE8M0 to float32, 2^(byte - 127); 255 is beyond float32 and gives infinity."""
    bits = exponents.to(torch.int32) << EXPONENT_SHIFT
    return bits.masked_fill(exponents == 0, 1 << (EXPONENT_SHIFT - 1)).view(torch.float32)


def _power_of_two_above(x: torch.Tensor) -> torch.Tensor:
    """2^ceil(log2(x)) for positive x, without the rounding of a logarithm."""
    mantissa, exponent = torch.frexp(x)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.where(x.isinf(), x, torch.ldexp(torch.ones_like(x), exponent))


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
