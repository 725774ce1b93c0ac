# SPDX-License-Identifier: Apache-2.0
"""FlashMLA's sparse functions on Triton kernels, under the signatures that vLLM calls.

The signatures are those of FlashMLA's `flash_mla_interface.py` as the wheels of vLLM v0.20.0 to
v0.33.0 ship it; `enable_batch_invariant` came last. `reference/` says what they compute.
"""

import torch

from ..layouts import describe
from .arguments import (
    HEAD_DIM_V,
    check_sink,
    check_sparse,
    read_output,
    read_scopes,
    shapes,
)
from .checks import check_runnable, check_tensor
from .dump import dump_and_stop
from .schedule import FlashMLASchedMeta, get_mla_metadata

__all__ = [
    "FlashMLASchedMeta",
    "flash_mla_sparse_fwd",
    "flash_mla_with_kvcache",
    "get_mla_metadata",
]

PREFILL_WIDTHS = (512, 576)


def flash_mla_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: torch.Tensor | None,
    cache_seqlens: torch.Tensor | None,
    head_dim_v: int,
    tile_scheduler_metadata: FlashMLASchedMeta | None,
    num_splits: None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: torch.Tensor | None = None,
    attn_sink: torch.Tensor | None = None,
    extra_k_cache: torch.Tensor | None = None,
    extra_indices_in_kvcache: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
    extra_topk_length: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    enable_batch_invariant: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse attention over one or two paged fp8_ds_mla caches; the dense form isn't here.

    `q` (b, s_q, heads, d) bfloat16: d is 512 for V4, 576 for V3.2, or 512 over a V3.2 cache for
    models without RoPE. Any number of heads. `k_cache` and `extra_k_cache` (pages, page size, 1,
    584 or 656) uint8, see `layouts`; pages may lie apart. `indices` and `extra_indices_in_kvcache`
    (b, s_q, k) int32: global slots. Negative or too large ones don't count, and of each row only
    the leftmost `topk_length` and `extra_topk_length` (b,) int32 do. `attn_sink` (heads,) float32.
    `out` (b, s_q, heads, 512) bfloat16 is written in place. `softmax_scale` is 1 / sqrt(d) by
    default. `block_table` and `cache_seqlens` belong to the dense form and are not looked at;
    `tile_scheduler_metadata` may be None. With `enable_batch_invariant` a row's result doesn't
    depend on the other rows of the batch.

    Returns the output and the LSE (b, heads, s_q) float32, natural logarithm, without the sink. A
    row without keys is 0 with an LSE of +inf. A byte of a used slot that is e4m3's code for NaN
    counts as 480, unlike in FlashMLA; NaN in RoPE values and scales does reach the output. Raises
    ValueError for an argument that doesn't fit, and RuntimeError where no kernel can run.
    """
    dump_and_stop("flash_mla_with_kvcache", locals())
    check_tensor("q", q, ("b", "s_q", "heads", "d"), torch.bfloat16, q.device)
    check_sparse(
        causal=causal,
        is_fp8_kvcache=is_fp8_kvcache,
        num_splits=num_splits,
        head_dim_v=head_dim_v,
    )
    scopes = read_scopes(
        q,
        (k_cache, indices, topk_length),
        (extra_k_cache, extra_indices_in_kvcache, extra_topk_length),
    )
    check_sink(attn_sink, q.shape[2], q.device)
    out, out_rows = read_output(out, q)
    if isinstance(tile_scheduler_metadata, FlashMLASchedMeta):
        tile_scheduler_metadata.use(shapes(q, scopes, batch_invariant=enable_batch_invariant))
    check_runnable("flash_mla_with_kvcache", q.device, "decode.sparse_decode")
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    if lse.numel():
        # Not before it is needed: Triton takes a while to import and isn't everywhere.
        from ..kernels.decode import sparse_decode

        sparse_decode(
            q.flatten(0, 1),
            scopes,
            scale=q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale,
            sink=attn_sink,
            out=out_rows,
            lse=lse.flatten(0, 1),
            batch_invariant=enable_batch_invariant,
        )
    return out, lse.transpose(1, 2)


def flash_mla_sparse_fwd(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int = HEAD_DIM_V,
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sparse attention over a workspace of bfloat16 keys.

    `q` (s_q, heads, d) bfloat16, d being 512 or 576, any number of heads. `kv` (s_kv, 1, d)
    bfloat16: a value is the first 512 numbers of its key. `indices` (s_q, 1, k) int32 are rows of
    `kv`; negative or too large ones don't count, and of each row only the leftmost `topk_length`
    (s_q,) int32 do. `attn_sink` (heads,) float32. `out` (s_q, heads, 512) bfloat16 is written in
    place.

    Returns the output, and the largest logit and the LSE, both (s_q, heads) float32, natural
    logarithm, without the sink. A row without keys is 0 with -inf and +inf. Raises ValueError for
    an argument that doesn't fit, and RuntimeError where no kernel can run.
    """
    dump_and_stop("flash_mla_sparse_fwd", locals())
    check_tensor("q", q, ("s_q", "heads", "d"), torch.bfloat16, q.device)
    s_q, heads, d = q.shape
    if d not in PREFILL_WIDTHS:
        raise ValueError(f"q is {describe(q)}; expected a last dimension of 512 or 576")
    if d_v != HEAD_DIM_V:
        raise ValueError(f"d_v is {d_v}; expected {HEAD_DIM_V}")
    check_tensor("kv", kv, ("s_kv", 1, d), torch.bfloat16, q.device)
    if not kv.shape[0]:
        raise ValueError(f"kv is {describe(kv)}; expected one key or more")
    check_tensor("indices", indices, (s_q, 1, "k"), torch.int32, q.device)
    check_sink(attn_sink, heads, q.device)
    if topk_length is not None:
        check_tensor("topk_length", topk_length, (s_q,), torch.int32, q.device)
    out, _ = read_output(out, q)
    check_runnable("flash_mla_sparse_fwd", q.device, "prefill.sparse_prefill")
    max_logits = q.new_empty((s_q, heads), dtype=torch.float32)
    lse = torch.empty_like(max_logits)
    if lse.numel():
        from ..kernels.prefill import sparse_prefill

        sparse_prefill(
            q,
            kv.squeeze(1),
            indices.squeeze(1),
            scale=sm_scale,
            sink=attn_sink,
            lengths=topk_length,
            out=out,
            max_logits=max_logits,
            lse=lse,
        )
    return out, max_logits, lse
