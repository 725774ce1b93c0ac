# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V4's attention on SM12x for vLLM v0.20 to v0.22, which have one class for all devices.

The same three changes as `deepseek_v4` makes to later classes: kernels are compiled at start, heads
aren't padded, and a prompt's keys are read where they are instead of being gathered in bfloat16.
"""

import sys
from collections.abc import MutableMapping
from typing import Any

from .. import envs
from ..support.choice import KNOB
from .deepseek_v4 import prefill
from .ready import compiling
from .windows import add_windows

LAYER, WRAPPER = "DeepseekV4MLAAttention", "DeepseekV4MultiHeadLatentAttentionWrapper"
IMPL = "DeepseekV4FlashMLASparseImpl"


def bind_layer(names: MutableMapping[str, Any]) -> None:
    """Put our classes into the namespace of v0.20's and v0.21's attention module.

    PREFILL_CHUNK_SIZE is how many requests' keys a dry run reserves a workspace for: none is used.
    """
    if envs.get(KNOB) is False:
        return
    layer, wrapper = names[LAYER], names[WRAPPER]
    backend = compiling_backend(names["DeepseekV4FlashMLASparseBackend"])

    class Attention(layer):  # type: ignore[misc, valid-type]
        def __init__(self, num_heads: int, *args: Any, attn_sink: Any, **kwargs: Any) -> None:
            # It is as long as FlashMLA's heads; weights are loaded into the tensor behind the view.
            super().__init__(num_heads, *args, attn_sink=attn_sink[:num_heads], **kwargs)
            self.padded_heads = num_heads

        def get_attn_backend(self) -> type[Any]:
            return backend

        def _forward_prefill(self, **kwargs: Any) -> None:
            add_windows(kwargs["swa_metadata"], kwargs["positions"], self.window_size)
            prefill(self, sys.modules[layer.__module__], **kwargs)

    class Wrapper(wrapper):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.padded_heads = self.mla_attn.padded_heads

    for name, made in ((LAYER, Attention), (WRAPPER, Wrapper)):
        made.__name__ = made.__qualname__ = name
        names[name] = made
    names["PREFILL_CHUNK_SIZE"] = 0


def bind_impl(names: MutableMapping[str, Any]) -> None:
    """Put our class into the namespace of v0.22's FlashMLA module; its methods are the class's."""
    if envs.get(KNOB) is False:
        return
    upstream = names[IMPL]
    backend = compiling_backend(upstream.backend_cls)

    class Impl(upstream):  # type: ignore[misc, valid-type]
        backend_cls = backend

        @classmethod
        def get_padded_num_q_heads(cls, num_heads: int) -> int:
            return num_heads

        @classmethod
        def forward_mqa(cls, layer: Any, q: Any, kv: Any, positions: Any, output: Any) -> None:
            from vllm.forward_context import get_forward_context

            if get_forward_context().attn_metadata is None:
                output.zero_()  # upstream reserves a workspace for the longest context here
            else:
                super().forward_mqa(Unpadded(layer), q, kv, positions, output)

        @classmethod
        def _forward_prefill(cls, layer: Any, **kwargs: Any) -> None:
            add_windows(kwargs["swa_metadata"], kwargs["positions"], layer.window_size)
            prefill(layer, sys.modules[upstream.__module__], **kwargs)

    Impl.__name__ = Impl.__qualname__ = IMPL
    names[IMPL] = Impl


class Unpadded:
    """A layer whose sinks are as many as its heads; all else is the layer's."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.attn_sink = layer.attn_sink[: layer.num_heads]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def compiling_backend(upstream: type[Any]) -> type[Any]:
    """Return upstream's backend with a builder that compiles the kernels, under the same name."""
    builder = compiling(upstream.get_builder_cls())

    class Backend(upstream):  # type: ignore[misc]
        @staticmethod
        def get_builder_cls() -> type[Any]:
            return builder

    Backend.__name__ = Backend.__qualname__ = f"Triton{upstream.__name__}"
    return Backend
