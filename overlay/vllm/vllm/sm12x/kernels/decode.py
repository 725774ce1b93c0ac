# SPDX-License-Identifier: Apache-2.0
"""Sparse attention straight from paged fp8_ds_mla caches: at most two launches and no waiting.

The same kernels serve decode, speculative decoding and prefill without a gathered workspace: a
query row is a query row. What changes with their number is how far a row is split. Only splits need
a workspace. Where the user asks for splits of so many rows that it would grow beyond its bound,
they go in passes of two launches that share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

from ..layouts import V4, Layout, check_cache
from ..layouts.scope import Scope
from .decode_kernel import decode_kernel
from .launch import device_of
from .merge import merge_kernel
from .softmax import LOG2E
from .tiles import Kernel, Limits, Plan, describe_device, plan, read_limits

D_V = 512
# V4's logits come out of the kernel's dots this much too small.
V4_UP = 2.0**64


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Query rows, what they read, and where their results go; `sparse_decode` says the shapes."""

    q: torch.Tensor
    scopes: Sequence[Scope]
    out: torch.Tensor
    lse: torch.Tensor

    def some(self, first: int, most: int) -> "Rows":
        """Return at most `most` of them, from `first` on."""
        part = slice(first, first + most)
        scopes = [_rows_of(scope, part) for scope in self.scopes]
        return Rows(q=self.q[part], scopes=scopes, out=self.out[part], lse=self.lse[part])


@dataclass(frozen=True, kw_only=True)
class Partial:
    """The workspace of splits: outputs (rows, splits, heads, 512) and their LSEs, float32."""

    out: torch.Tensor
    lse: torch.Tensor


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
    given = Rows(q=q, scopes=scopes, out=out, lse=lse)
    if chosen.splits == 1:
        _launch(chosen, layout, given, scale, sink, None)
        return
    # The passes share one workspace; all run on one stream.
    shape = (min(rows, limits.rows), chosen.splits, heads)
    partial = Partial(
        out=q.new_empty((*shape, D_V), dtype=torch.float32),
        lse=q.new_empty(shape, dtype=torch.float32),
    )
    for first in range(0, rows, limits.rows):
        few = given if rows <= limits.rows else given.some(first, limits.rows)
        _launch(chosen, layout, few, scale, sink, partial)
        _merge(chosen, few, sink, partial)


def _merge(chosen: Plan, given: Rows, sink: torch.Tensor | None, partial: Partial) -> None:
    out, lse = given.out, given.lse
    rows, heads, _ = out.shape
    with device_of(out):
        merge_kernel[(rows * heads,)](
            partial_ptr=partial.out,
            partial_lse_ptr=partial.lse,
            sink_ptr=sink,
            out_ptr=out,
            lse_ptr=lse,
            out_row_stride=out.stride(0),
            out_head_stride=out.stride(1),
            lse_row_stride=lse.stride(0),
            heads=heads,
            splits=chosen.splits,
            ROUNDED=triton.next_power_of_2(chosen.splits),
            num_warps=4,
        )


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


def _scope_arguments(scope: Scope | None, prefix: str) -> dict[str, Any]:
    """What kernels take of a scope, None and 0 for one that isn't there."""
    cache = indices = lengths = None
    page_stride = slots = width = index_stride = 0
    if scope is not None:
        cache, lengths = scope.cache, scope.lengths
        pages, page_size, _ = cache.shape
        # The stride of a dimension of one means nothing and might not be a multiple of 16.
        page_stride = cache.stride(0) if pages > 1 else 0
        slots = pages * page_size
        indices = scope.indices if scope.indices.stride(1) == 1 else scope.indices.contiguous()
        width, index_stride = indices.shape[1], indices.stride(0)
    return {
        f"{prefix}cache_ptr": cache,
        f"{prefix}index_ptr": indices,
        f"{prefix}length_ptr": lengths,
        f"{prefix}page_stride": page_stride,
        f"{prefix}slots": slots,
        f"{prefix}width": width,
        f"{prefix}index_stride": index_stride,
    }


def _launch(
    chosen: Plan,
    layout: Layout,
    given: Rows,
    scale: float,
    sink: torch.Tensor | None,
    partial: Partial | None,
) -> None:
    q, out, lse, tile = given.q, given.out, given.lse, chosen.tile
    rows, heads, width = q.shape
    first = given.scopes[0]
    extra = given.scopes[1] if len(given.scopes) > 1 else None
    with device_of(q):
        decode_kernel[(rows * chosen.head_blocks, chosen.splits)](
            q_ptr=q,
            sink_ptr=sink,
            out_ptr=out,
            lse_ptr=lse,
            partial_ptr=partial.out if partial else None,
            partial_lse_ptr=partial.lse if partial else None,
            **_scope_arguments(first, ""),
            **_scope_arguments(extra, "extra_"),
            q_row_stride=q.stride(0),
            q_head_stride=q.stride(1),
            out_row_stride=out.stride(0),
            out_head_stride=out.stride(1),
            lse_row_stride=lse.stride(0),
            heads=heads,
            splits=chosen.splits,
            scale=scale * LOG2E.value * (V4_UP if layout is V4 else 1.0),
            V4=layout is V4,
            PAGE=first.cache.shape[1],
            EXTRA_PAGE=extra.cache.shape[1] if extra else 1,
            ROPE=0 if layout is V4 else width - layout.nope_dim,
            SPLIT=chosen.splits > 1,
            BLOCK_H=tile.block_heads,
            BLOCK_N=tile.block_entries,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
