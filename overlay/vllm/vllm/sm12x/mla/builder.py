# SPDX-License-Identifier: Apache-2.0
"""The metadata of a step for V3.2 and GLM on SM12x: all its tokens are rows of one batch."""

from typing import Any

from vllm.v1.attention.backends.mla.flashmla_sparse import (
    FlashMLASparseImpl,
    FlashMLASparseMetadata,
    FlashMLASparseMetadataBuilder,
)

from ..ops.flash_mla import get_mla_metadata
from .ready import compiling


def reads_in_place(vllm_config: Any) -> bool:
    """Whether prompts are read from the packed cache where it is, as in decode.

    Upstream's own way stays where a prompt needs more than a cache of this device: HiSparse keeps
    keys on the host, and ranks that share contexts and prompts gather keys from each other.
    """
    on_host = getattr(vllm_config.attention_config, "hisparse_config", None) is not None
    parallel = vllm_config.parallel_config
    gathers = min(parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size) > 1
    return not on_host and not gathers


class InPlaceBuilder(FlashMLASparseMetadataBuilder):  # type: ignore[misc]
    """FlashMLA's builder, which lets decode's kernel serve prompts too, for any number of heads.

    Upstream does so below 32 heads and gathers a longer prompt's keys in bfloat16 above. From v0.29
    on it makes up its mind as it is initialised, and refuses ranks that share contexts by what
    FlashMLA's kernels can do; both are answered here.
    """

    _mixed = False

    @property
    def fp8_use_mixed_batch(self) -> bool:
        """Whether all of a step's tokens are rows of one batch."""
        return self._mixed or reads_in_place(self.vllm_config)

    @fp8_use_mixed_batch.setter
    def fp8_use_mixed_batch(self, value: bool) -> None:
        self._mixed = value

    @property
    def fp8_decode_padded_heads(self) -> int:
        """What FlashMLA's kernels would pad heads to: those of all ranks, whose queries come."""
        shares = reads_in_place(self.vllm_config)
        ranks = self.vllm_config.parallel_config.decode_context_parallel_size if shares else 1
        padded: int = FlashMLASparseImpl._compute_fp8_decode_padded_heads(self.num_heads * ranks)
        return padded

    @fp8_decode_padded_heads.setter
    def fp8_decode_padded_heads(self, value: int) -> None:
        pass

    def _build_fp8_separate_prefill_decode(self, *args: Any, **kwargs: Any) -> Any:
        if not reads_in_place(self.vllm_config):
            return super()._build_fp8_separate_prefill_decode(*args, **kwargs)
        return FlashMLASparseMetadata.FP8KernelMetadata(
            scheduler_metadata=get_mla_metadata()[0],
            cache_lens=self.max_model_len_tensor[:1],
            dummy_block_table=self.dummy_block_table[:1],
        )

    @staticmethod
    def determine_chunked_prefill_workspace_size(vllm_config: Any) -> int:
        """Return 0: what newer releases keep is for a dense prefill, and there is none."""
        return 0

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Build upstream's metadata and mark it by what was made for the packed cache."""
        metadata = super().build(*args, **kwargs)
        if isinstance(metadata.fp8_extra_metadata, FlashMLASparseMetadata.FP8KernelMetadata):
            metadata.fp8_use_mixed_batch = True
        return metadata


SparseBuilder = compiling(InPlaceBuilder)
