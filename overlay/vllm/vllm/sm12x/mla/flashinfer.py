# SPDX-License-Identifier: Apache-2.0
"""vLLM's FlashInfer backend for V3.2 and GLM on SM12x, which hands on its kernels' LSE.

Upstream's doesn't, so it can't serve contexts that ranks share. FlashInfer's LSE is a base-2
logarithm (rows, heads), about -1e30 for a row without keys, whose output isn't looked at here.
"""

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backends.mla import flashinfer_mla_sparse, sparse_utils
from vllm.v1.attention.backends.mla.flashinfer_mla_sparse import FlashInferMLASparseSM120Backend
from vllm.v1.attention.backends.mla.flashinfer_mla_sparse_sm120 import FlashInferMLASparseSM120Impl
from vllm.v1.attention.backends.mla.flashmla_sparse import FlashMLASparseImpl

from .sharing import SHARES, drop_empty, local_slots

PAGE = 64  # of FlashInfer's kernels, whatever a page of vLLM's is


class SharedImpl(FlashInferMLASparseSM120Impl):  # type: ignore[misc]
    """Upstream's implementation for ranks that share contexts."""

    can_return_lse_for_decode = supports_dcp = SHARES
    lse_base_on_e = False
    need_to_return_lse_for_decode: bool
    _workspace_buffer: torch.Tensor | None
    # A draft is a row with picks of its own, here as in FlashMLA's.
    supports_mtp_with_cp_non_trivial_interleave_size = getattr(
        FlashMLASparseImpl, "supports_mtp_with_cp_non_trivial_interleave_size", False
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parallel = get_current_vllm_config().parallel_config

    def forward_mqa(
        self, q: Any, kv_c_and_k_pe_cache: torch.Tensor, attn_metadata: Any, layer: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend with the heads of all ranks over this rank's keys."""
        if not self.need_to_return_lse_for_decode:
            out, lse = super().forward_mqa(q, kv_c_and_k_pe_cache, attn_metadata, layer)
            return out, lse
        from vllm.utils.flashinfer import flashinfer_trtllm_batch_decode_with_kv_cache_mla

        if isinstance(q, tuple):
            q = torch.cat(q, dim=-1)
        rows, heads, _ = q.shape
        pages, strides = pages_of(kv_c_and_k_pe_cache, attn_metadata.block_size)
        slots, counts = local_slots(
            self.topk_indices_buffer[:rows],
            attn_metadata,
            self._parallel,
            rank=self.dcp_rank,
            page=attn_metadata.block_size,
            **strides,
        )
        if self._workspace_buffer is None:
            self._workspace_buffer = flashinfer_mla_sparse._get_workspace_buffer(q.device)
        width = slots.shape[1]
        out, lse = flashinfer_trtllm_batch_decode_with_kv_cache_mla(
            query=q.unsqueeze(1),
            kv_cache=pages.view(torch.uint8).unsqueeze(1),
            workspace_buffer=self._workspace_buffer,
            qk_nope_head_dim=self.qk_nope_head_dim,
            kv_lora_rank=self.kv_lora_rank,
            qk_rope_head_dim=self.qk_rope_head_dim,
            block_tables=slots.unsqueeze(1),
            seq_lens=None,
            max_seq_len=width,
            out=q.new_empty(rows, 1, heads, self.kv_lora_rank),
            bmm1_scale=self.scale,
            bmm2_scale=1.0,
            sparse_mla_top_k=width,
            kv_scale_format=self.kv_scale_format,
            return_lse=True,
        )
        out = out.view(rows, heads, self.kv_lora_rank)
        out.masked_fill_((counts == 0).view(-1, 1, 1), 0)
        return out, drop_empty(lse.view(rows, heads), counts)


def pages_of(cache: torch.Tensor, page: int) -> tuple[torch.Tensor, dict[str, int]]:
    """Return a cache (pages, tokens, bytes) in pages of 64, and what `local_slots` is to know.

    Where vLLM's pages are larger, they come as rows with gaps of whole pages between them.
    """
    if not hasattr(sparse_utils, "flat_kv_row_view"):
        return cache, {}
    rows, step = sparse_utils.flat_kv_row_view(cache, page)
    return rows.view(-1, PAGE, cache.shape[2]), {"BLOCK_STRIDE_ROWS": step}


class SharedBackend(FlashInferMLASparseSM120Backend):  # type: ignore[misc]
    """Upstream's backend, under its own name, with that implementation."""

    @staticmethod
    def get_impl_cls() -> type[SharedImpl]:
        """Return the implementation that layers are made with."""
        return SharedImpl
