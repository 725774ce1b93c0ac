# SPDX-License-Identifier: Apache-2.0
"""vLLM's FlashMLA backend for V3.2 and GLM, as it runs on SM12x with the functions bound there."""

from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backends.mla import flashmla_sparse
from vllm.v1.attention.backends.mla.flashmla_sparse import (
    FlashMLASparseBackend,
    FlashMLASparseImpl,
)
from vllm.v1.worker.workspace import current_workspace_manager

from ..layouts import V32
from ..ops.flash_mla import flash_mla_sparse_fwd, flash_mla_with_kvcache
from .builder import SparseBuilder, reads_in_place
from .sharing import SHARES, OwnSinks, drop_empty, local_slots

PACKED, UNPACKED = "fp8_ds_mla", "auto"
ROPE_DIM = V32.head_dim - V32.nope_dim


def writes_without_rope() -> bool:
    """Whether vLLM's kernel that writes the packed cache fills an absent RoPE part, as from v0.32.

    Its implementation then has a constant for the width.
    """
    return hasattr(flashmla_sparse, "FP8_DS_MLA_ROPE_DIM")


class SparseImpl(FlashMLASparseImpl):  # type: ignore[misc]
    """FlashMLA's implementation without what only FlashMLA's kernels need: padded heads, a RoPE
    part where a model has none, and a workspace for the longest context.

    Prompts take the sparse path as well: which dense kernels serve MLA on SM12x is a question of
    its own, and vLLM's FlashInfer path for SM12x doesn't ask it either.

    `sinks` (heads of this rank,) float32 are HY V4's: a logit a head that takes part in the
    softmax and brings no value. Weights are loaded into the tensor after it is handed over.

    Where ranks share contexts, a rank gives its part for the heads of all: see `sharing`.
    """

    supports_dense_mha_prefill = False
    can_return_lse_for_decode = supports_dcp = SHARES
    lse_base_on_e = True
    need_to_return_lse_for_decode: bool
    sinks: torch.Tensor | None = None
    _own_sinks: OwnSinks | None = None
    _shares = False

    def __init__(
        self,
        *,
        num_heads: int,
        head_size: int,
        kv_cache_dtype: str,
        sinks: torch.Tensor | None = None,
        **others: Any,
    ) -> None:
        config = get_current_vllm_config()
        self._in_place = kv_cache_dtype == PACKED and reads_in_place(config)
        self._shares, self._parallel = (
            self._in_place and self.dcp_world_size > 1,
            config.parallel_config,
        )
        self._take_sinks(sinks, num_heads)
        self._buffers = self._sizes(config.scheduler_config.max_num_batched_tokens, num_heads)
        if self._in_place:
            # First, because upstream may keep a view of its part and with it all that it had then.
            current_workspace_manager().get_simultaneous(*self._buffers)
        # By a packed cache's name upstream reserves what it gathers prompts into.
        reserved_for = UNPACKED if self._in_place else kv_cache_dtype
        # For another name it refuses to give an LSE.
        gives_lse, self.need_to_return_lse_for_decode = self.need_to_return_lse_for_decode, False
        super().__init__(
            num_heads=num_heads, head_size=head_size, kv_cache_dtype=reserved_for, **others
        )
        self.kv_cache_dtype, self.need_to_return_lse_for_decode = kv_cache_dtype, gives_lse

    def _take_sinks(self, sinks: torch.Tensor | None, heads: int) -> None:
        self.sinks, ranks = sinks, self.dcp_world_size
        if sinks is None:
            return
        check_sinks(sinks, heads)
        if self._shares:
            self._own_sinks = OwnSinks(sinks, rank=self.dcp_rank, ranks=ranks)
        elif ranks > 1:
            raise NotImplementedError(
                f"This model has attention sinks, and {ranks} ranks that share prompts as well as "
                "contexts would each count them. Serve it with --prefill-context-parallel-size 1."
            )

    def _sizes(self, tokens: int, heads: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """What queries and outputs take. Where ranks share contexts, queries come gathered."""
        gathered = heads * self.dcp_world_size
        queries = (0,) if self._shares else (tokens, heads, V32.head_dim)
        outputs = (tokens, gathered if self._shares else heads, V32.nope_dim)
        return [(shape, torch.bfloat16) for shape in (queries, outputs)]

    @property
    def prefill_padding(self) -> int:
        """Heads are padded to a multiple of this, which upstream's initialisation sets to 64."""
        return 1

    @prefill_padding.setter
    def prefill_padding(self, value: int) -> None:
        pass

    @staticmethod
    def _compute_fp8_decode_padded_heads(num_heads: int) -> int:
        return num_heads

    def do_kv_cache_update(
        self, kv_c_normed: torch.Tensor, k_pe: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        """Write keys; where there is no RoPE part, v0.30 and v0.31 want zeros for it."""
        if not k_pe.shape[-1] and self.kv_cache_dtype == PACKED and not writes_without_rope():
            k_pe = k_pe.new_zeros((*k_pe.shape[:-1], ROPE_DIM))
        super().do_kv_cache_update(kv_c_normed, k_pe, *args, **kwargs)

    def forward_mqa(
        self, q: Any, kv_c_and_k_pe_cache: torch.Tensor, attn_metadata: Any, layer: Any
    ) -> Any:
        """Attend. A query without a RoPE part goes on as it is, and stays 512 wide."""
        if isinstance(q, tuple) and not q[1].shape[-1]:
            q = q[0]
        if self._shares:
            q = torch.cat(q, dim=-1) if isinstance(q, tuple) else q
            return self._attend_part(q, kv_c_and_k_pe_cache, attn_metadata)
        return super().forward_mqa(q, kv_c_and_k_pe_cache, attn_metadata, layer)

    def _attend_part(
        self, q: torch.Tensor, cache: torch.Tensor, metadata: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output and the LSE of `q` (rows, heads of all ranks, 576 or 512) over those of
        its picks that this rank holds.
        """
        rows = len(q)
        picks = self.topk_indices_buffer[:rows]
        slots, counts = local_slots(
            picks, metadata, self._parallel, rank=self.dcp_rank, page=metadata.block_size
        )
        sinks = self._own_sinks
        _, whole = current_workspace_manager().get_simultaneous(*self._buffers)
        out, lse = flash_mla_with_kvcache(
            q=q.unsqueeze(1),
            k_cache=cache.view(torch.uint8).unsqueeze(-2),
            block_table=None,
            cache_seqlens=None,
            head_dim_v=V32.nope_dim,
            tile_scheduler_metadata=None,
            softmax_scale=self.softmax_scale,
            is_fp8_kvcache=True,
            indices=slots.unsqueeze(1),
            topk_length=counts,
            attn_sink=None if sinks is None else sinks.current(),
            out=whole[:rows].unsqueeze(1),
        )
        lse = drop_empty(lse.squeeze(2), counts)
        return out.squeeze(1), lse if sinks is None else sinks.count(lse)

    def _fp8_flash_mla_kernel(
        self,
        q: torch.Tensor,
        kv_c_and_k_pe_cache: torch.Tensor,
        topk_indices: torch.Tensor,
        kernel_metadata: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # vLLM's memory profile has seen this buffer. Gathered heads don't fit into it.
        shape, out = (*q.shape[:3], V32.nope_dim), None
        if self._in_place and q.shape[2] == self.num_heads:
            _, whole = current_workspace_manager().get_simultaneous(*self._buffers)
            out = whole[: q.shape[0] * q.shape[1]].view(shape)
        return flash_mla_with_kvcache(
            q=q,
            k_cache=kv_c_and_k_pe_cache.view(torch.uint8).unsqueeze(-2),
            block_table=kernel_metadata.dummy_block_table,
            cache_seqlens=kernel_metadata.cache_lens,
            head_dim_v=V32.nope_dim,
            tile_scheduler_metadata=kernel_metadata.scheduler_metadata,
            softmax_scale=self.softmax_scale,
            is_fp8_kvcache=True,
            indices=topk_indices,
            attn_sink=self.sinks,
            out=out,
        )

    def _bf16_flash_mla_kernel(
        self,
        q: torch.Tensor,
        kv_c_and_k_pe_cache: torch.Tensor,
        topk_indices: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Attend over a cache in bfloat16; upstream's way of it has no place for sinks."""
        if self.sinks is None:
            return super()._bf16_flash_mla_kernel(
                q, kv_c_and_k_pe_cache, topk_indices, *args, **kwargs
            )
        return self._bf16_with_sinks(q, kv_c_and_k_pe_cache, topk_indices, *args, **kwargs)

    def _bf16_with_sinks(
        self,
        q: torch.Tensor,
        cache: torch.Tensor,
        picks: torch.Tensor,
        topk_length: torch.Tensor | None = None,
        actual_num_heads: int | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with sinks, in the form of v0.33, the first release with such a model."""
        heads = q.shape[1] if actual_num_heads is None else actual_num_heads
        output, _, lse = flash_mla_sparse_fwd(
            q[:, :heads],
            cache.view(-1, 1, cache.shape[-1]),
            picks.view(len(q), 1, -1),
            self.softmax_scale,
            attn_sink=self.sinks,
            topk_length=topk_length,
            out=out,
        )
        return output, lse


def check_sinks(sinks: torch.Tensor, heads: int) -> None:
    """Raise ValueError for sinks that the kernels don't read."""
    if sinks.dtype != torch.float32 or sinks.shape != (heads,):
        raise ValueError(
            f"sinks are {tuple(sinks.shape)} {sinks.dtype}; expected ({heads},) torch.float32, "
            "one for each head of this rank"
        )


class SparseBackend(FlashMLASparseBackend):  # type: ignore[misc]
    """FlashMLA's backend for capability 12.x.

    Its name stays FLASHMLA_SPARSE: vLLM tells the cache format and what to warm up from it.
    """

    supported_kv_cache_dtypes: ClassVar[list[str]] = ["auto", "bfloat16", "fp8_ds_mla", "fp8"]

    @staticmethod
    def get_impl_cls() -> type[SparseImpl]:
        """Return the implementation that layers are made with."""
        return SparseImpl

    @staticmethod
    def get_builder_cls() -> type[Any]:
        """Return the class that builds metadata."""
        return SparseBuilder

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        """Return the widths of a key: without RoPE from v0.30 on, which has such a model."""
        without_rope = find_spec("vllm.models") and find_spec("vllm.models.glm5next")
        return [V32.head_dim, V32.nope_dim] if without_rope else [V32.head_dim]

    @classmethod
    def supports_sink(cls) -> bool:
        """Whether a layer may hand sinks to the implementation: HY V4 looks here and, where there
        is no such backend, goes on without them.
        """
        return True

    @classmethod
    def supports_compute_capability(cls, capability: Any) -> bool:
        """Whether `capability` is SM12x."""
        return bool(capability.major == 12)

    @classmethod
    def supports_combination(cls, *_args: Any, **_kwargs: Any) -> None:
        """Object to no combination: upstream's rules are about FlashMLA's kernels."""
