# SPDX-License-Identifier: Apache-2.0
"""The two fp8_ds_mla cache layouts: where each byte of a token is.

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

from dataclasses import dataclass

# Vector loads read 16 bytes at a time, so every row of a cache must start at a multiple of them.
LOAD_BYTES = 16
SCALE_ROW_BYTES = 8


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
