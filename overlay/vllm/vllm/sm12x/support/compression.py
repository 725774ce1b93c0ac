# SPDX-License-Identifier: Apache-2.0
"""What layers of DeepSeek V4 and V4.1 attend to beside their window, as configurations say it."""

from typing import Any

V41 = "deepseek_v41"
WINDOW_PAGE, V41_WINDOW_PAGE = 64, 32


def ratios_of(hf: Any) -> tuple[int, ...]:
    """Tokens that an entry of each layer's second scope stands for; 0 for a window alone.

    Empty for models without such layers. vLLM's own configuration class lists the ratios. Since
    v0.33 V4's is transformers', which names a kind for each layer and leaves out the draft layers,
    which have a window alone. In V4 a ratio of 1 means that as well; in V4.1 it is a scope of all
    tokens.
    """
    listed = getattr(hf, "compress_ratios", None)
    if listed is None:
        rates = getattr(hf, "compress_rates", None)
        if rates is None:
            return ()
        drafts = getattr(hf, "num_nextn_predict_layers", None) or 0
        listed = [*(rates.get(kind, 0) for kind in hf.layer_types), *[0] * drafts]
    alone = 0 if is_v41(hf) else 1
    return tuple(0 if ratio <= alone else int(ratio) for ratio in listed)


def is_v41(hf: Any) -> bool:
    """Whether a configuration is DeepSeek V4.1's."""
    return getattr(hf, "model_type", None) == V41


def window_page(hf: Any) -> int:
    """Tokens a page of the cache of windows."""
    return V41_WINDOW_PAGE if is_v41(hf) else WINDOW_PAGE
