# SPDX-License-Identifier: Apache-2.0
"""FlashMLA's scheduling object. Our kernels need no plan; it remembers what it was used for."""

from dataclasses import asdict, dataclass

import torch


@dataclass
class FlashMLASchedMeta:
    """What `get_mla_metadata` gives and `flash_mla_with_kvcache` takes, with FlashMLA's fields.

    The two tensors stay None: a grid follows from shapes alone, so there is nothing to plan and a
    captured graph holds no plan that could go stale.
    """

    @dataclass
    class Config:
        """The shapes of the first call; later calls with the same object must have them too."""

        b: int
        s_q: int
        h_q: int
        page_block_size: int
        h_k: int
        causal: bool
        is_fp8_kvcache: bool
        topk: int | None
        extra_page_block_size: int | None
        extra_topk: int | None
        enable_batch_invariant: bool = False

    have_initialized: bool = False
    config: Config | None = None
    tile_scheduler_metadata: torch.Tensor | None = None
    num_splits: torch.Tensor | None = None

    def use(self, config: Config) -> None:
        """Note a call's shapes; ValueError where they aren't those of the first call.

        Nothing here would break. FlashMLA refuses it, and code that works here should work there.
        """
        if self.config is None:
            self.config = config
            self.have_initialized = True
        elif self.config != config:
            first, now = asdict(self.config), asdict(config)
            changed = [f"{key} {first[key]} -> {now[key]}" for key in now if first[key] != now[key]]
            raise ValueError(
                f"tile_scheduler_metadata was first used with other shapes: {', '.join(changed)}; "
                "expected a fresh one from get_mla_metadata()"
            )


def get_mla_metadata(*_args: object, **_kwargs: object) -> tuple[FlashMLASchedMeta, None]:
    """Return an unused scheduling object, and None. Arguments are those of older callers."""
    return FlashMLASchedMeta(), None
