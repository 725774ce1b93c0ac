# SPDX-License-Identifier: Apache-2.0
"""Sparse attention straight from paged fp8_ds_mla caches: at most two launches and no waiting.

The same kernels serve decode, speculative decoding and prefill without a gathered workspace: a
query row is a query row. What changes with their number is how far a row is split. Only splits need
a workspace. Where the user asks for splits of so many rows that it would grow beyond its bound,
they go in passes of two launches that share it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton

from ..layouts import V4, Layout, check_cache
from ..scope import Scope
from .decode_v4 import decode_v4_kernel
from .decode_v32 import decode_v32_kernel
from .merge import merge_kernel
from .softmax import LOG2E
from .tiles import Kernel, Limits, Plan, describe_device, plan, read_limits

D_V = 512
# V4's logits come out of the kernel's dots this much too small.
V4_UP = 2.0**64


def sparse_decode(
    q: torch.Tensor,
    scopes: Sequence[Scope],
    *,
    scale: float,
    sink: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    batch_invariant: bool = False,
    limits: Limits | None = None,
) -> None:
    """Write attention over the keys of one or two `scopes` into `out` and `lse`.

    `q` (rows, heads, d) bfloat16: d is 512 for V4, 576 for V3.2, and 512 over a V3.2 cache reads
    the leading 512 numbers of each key. `sink` (heads,) float32 or None. `out` (rows, heads, 512)
    bfloat16 and `lse` (rows, heads) float32 are written whole; any strides but that the last
    dimension is dense. `reference.decode.sparse_decode` says what is computed. Scopes share one
    layout. ValueError for another number of scopes, two layouts, or a width of `q` that doesn't
    fit; the contents of tensors are never looked at from the host. `limits` are those of the
    environment unless given.
    """
    layout = _check(q, scopes)
    rows, heads, _ = q.shape
    kernel = Kernel.DECODE_V4 if layout is V4 else Kernel.DECODE_V32
    limits = limits or read_limits()
    chosen = plan(
        kernel, describe_device(q.device), rows=rows, heads=heads,
        widths=[scope.indices.shape[1] for scope in scopes],
        batch_invariant=batch_invariant, limits=limits,
    )  # fmt: skip
    if q.stride(2) != 1:
        q = q.contiguous()
    if chosen.splits == 1:
        _launch(chosen, layout, q, scopes, scale, sink, out, lse, None, None)
        return
    # The passes share one workspace; all run on one stream.
    shape = (min(rows, limits.rows), chosen.splits, heads)
    partial = q.new_empty((*shape, D_V), dtype=torch.float32)
    partial_lse = q.new_empty(shape, dtype=torch.float32)
    for first in range(0, rows, limits.rows):
        part = slice(first, min(first + limits.rows, rows))
        few = [_rows_of(scope, part) for scope in scopes]
        _launch(
            chosen, layout, q[part], few, scale, sink, out[part], lse[part], partial, partial_lse
        )
        merge_kernel[((part.stop - first) * heads,)](
            partial, partial_lse, sink, out[part], lse[part], out.stride(0), out.stride(1),
            lse.stride(0), heads, chosen.splits,
            ROUNDED=triton.next_power_of_2(chosen.splits), num_warps=4,
        )  # fmt: skip


def _rows_of(scope: Scope, part: slice) -> Scope:
    lengths = None if scope.lengths is None else scope.lengths[part]
    return Scope(cache=scope.cache, indices=scope.indices[part], lengths=lengths)


def _check(q: torch.Tensor, scopes: Sequence[Scope]) -> Layout:
    if not 1 <= len(scopes) <= 2:
        raise ValueError(f"scopes has {len(scopes)} entries; expected one or two")
    layouts = [check_cache(scope.cache, f"scopes[{i}].cache") for i, scope in enumerate(scopes)]
    if len(set(layouts)) > 1:
        raise ValueError(f"scopes have caches of {layouts[0].name} and of {layouts[1].name}")
    layout = layouts[0]
    widths = (layout.head_dim,) if layout is V4 else (layout.head_dim, layout.nope_dim)
    if q.shape[2] not in widths:
        expected = " or ".join(map(str, widths))
        raise ValueError(f"q is {q.shape[2]} wide; expected {expected} for {layout.name}")
    return layout


def _scope_arguments(scope: Scope | None) -> tuple[Any, ...]:
    """Cache, indices, lengths, page stride, slots, width and index stride, as kernels take them."""
    if scope is None:
        return (None, None, None, 0, 0, 0, 0)
    pages, page_size, _ = scope.cache.shape
    # The stride of a dimension of one means nothing and might not be a multiple of 16.
    page_stride = scope.cache.stride(0) if pages > 1 else 0
    indices = scope.indices if scope.indices.stride(1) == 1 else scope.indices.contiguous()
    return (
        scope.cache, indices, scope.lengths, page_stride, pages * page_size, indices.shape[1],
        indices.stride(0),
    )  # fmt: skip


def _launch(
    chosen: Plan,
    layout: Layout,
    q: torch.Tensor,
    scopes: Sequence[Scope],
    scale: float,
    sink: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    partial: torch.Tensor | None,
    partial_lse: torch.Tensor | None,
) -> None:
    rows, heads, width = q.shape
    tile = chosen.tile
    extra = scopes[1] if len(scopes) > 1 else None
    scale *= LOG2E.value
    options: dict[str, Any] = {}
    if layout is V4:
        function, scale = decode_v4_kernel, scale * V4_UP
    else:
        function, options = decode_v32_kernel, {"ROPE": width - layout.nope_dim}
    function[(rows * chosen.head_blocks, chosen.splits)](
        q, sink, out, lse, partial, partial_lse,
        *_scope_arguments(scopes[0]), *_scope_arguments(extra),
        q.stride(0), q.stride(1), out.stride(0), out.stride(1), lse.stride(0), heads,
        chosen.splits, scale,
        PAGE=scopes[0].cache.shape[1], EXTRA_PAGE=extra.cache.shape[1] if extra else 1,
        SPLIT=chosen.splits > 1, BLOCK_H=tile.block_heads, BLOCK_N=tile.block_entries,
        num_warps=tile.warps, num_stages=tile.stages, **options,
    )  # fmt: skip
