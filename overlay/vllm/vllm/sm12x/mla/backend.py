# SPDX-License-Identifier: Apache-2.0
"""vLLM's FlashMLA backend for V3.2 and GLM, as it runs on SM12x with the functions bound there."""

from typing import Any, ClassVar

from vllm.v1.attention.backends.mla import flashmla_sparse
from vllm.v1.attention.backends.mla.flashmla_sparse import (
    FlashMLASparseBackend,
    FlashMLASparseImpl,
    FlashMLASparseMetadataBuilder,
)

from ..layouts import V32
from .ready import compiling

SparseBuilder = compiling(FlashMLASparseMetadataBuilder)


class SparseImpl(FlashMLASparseImpl):  # type: ignore[misc]
    """FlashMLA's implementation without what only FlashMLA's kernels need: padded heads.

    Prompts take the sparse path as well: which dense kernels serve MLA on SM12x is a question of
    its own, and vLLM's FlashInfer path for SM12x doesn't ask it either.
    """

    supports_dense_mha_prefill = False

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
        """Return the widths of a key that upstream's implementation can hand on.

        Without RoPE that is so from v0.32 on, where a row's RoPE part is filled with zeros.
        """
        without_rope = hasattr(flashmla_sparse, "FP8_DS_MLA_ROPE_DIM")
        return [V32.head_dim, V32.nope_dim] if without_rope else [V32.head_dim]

    @classmethod
    def supports_compute_capability(cls, capability: Any) -> bool:
        """Whether `capability` is SM12x."""
        return bool(capability.major == 12)

    @classmethod
    def supports_combination(cls, *_args: Any, **_kwargs: Any) -> None:
        """Object to no combination: upstream's rules are about FlashMLA's kernels."""
