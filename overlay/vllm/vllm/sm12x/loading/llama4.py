# SPDX-License-Identifier: Apache-2.0
"""Load a Llama 4 checkpoint one language-model tensor at a time.

Before v0.24.0 (vllm-project/vllm#44645) ``Llama4ForConditionalGeneration.load_weights`` sorted the
whole checkpoint into lists before it loaded anything. Where the iterator gives private copies
instead of views on mapped files, that needs host memory for all the weights at once.

Here a weight goes to where it belongs as it comes, and is let go before the next is asked for. A
loader may give views of a buffer that holds a whole shard, in the GPU's memory: one view that is
kept would keep it all. So two groups that have to wait for the language model don't keep the
loader's memory:

* expert scales of one value that aren't spread over the experts wait as copies;
* query, key and value weights of the vision tower, if it is data-parallel, wait as they are: the
  model joins them.

Expert scales of more values (per channel, per group) wait upstream as well; here they stream, with
one exception. ``Llama4Model.load_weights`` takes expert tensors to be fused from the first name on
that has ``experts.gate_up_proj`` or ``experts.down_proj`` in it, and forgets that only between
passes. In the weights' own pass a scale would then be read in the weights' layout, and could set
the layout for the weights after it. So a scale streams if its layout is the one the pass is in, or
if its name has none; any other (fused weights with per-expert scales, or the reverse) waits for the
second pass, in which upstream loads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    NamedWeight = tuple[str, Tensor]
    Stacked = list[tuple[str, str, str | int]]

_FUSED_EXPERTS = re.compile(r"experts\.(gate_up|down)_proj")
_ONE_EXPERT = re.compile(r"experts\.\d+\.")
_JOINED = re.compile(r"\.self_attn\.[qkv]_proj")


class Route(str, Enum):
    """What becomes of one weight of the checkpoint."""

    STREAM = "stream"
    """Handed to the language model at once."""
    SPREAD = "spread"
    """One value, written to all the experts of its parameter at once."""
    SCALE = "scale"
    """A copy of it is kept for the language model's second pass."""
    OTHER = "other"
    """Written to the vision tower or the projector at once."""
    JOINED = "joined"
    """Kept for the vision tower, which joins it with others."""
    ABSENT = "absent"
    """Dropped: its module isn't on this pipeline stage."""


class Llama4Multimodal(Protocol):
    """What is needed of upstream's Llama4ForConditionalGeneration."""

    use_data_parallel: bool

    def _rename_weight_for_modelopt_checkpoint(self, name: str) -> str: ...

    def _load_other_weights(
        self,
        other_weights: Iterable[NamedWeight],
        params_dict: Mapping[str, Tensor],
        stacked_params_mapping: Stacked,
    ) -> set[str]: ...


@dataclass(frozen=True, kw_only=True)
class LanguageWeightStream:
    """Language-model weights in checkpoint order; to be iterated once.

    ``scales`` and ``others`` are complete, and ``loaded`` has the names of the parameters that were
    written on the way, when the iteration has ended. A weight whose name starts with no
    module of the model raises AttributeError, as upstream does.
    """

    model: Llama4Multimodal
    weights: Iterable[NamedWeight]
    params: Mapping[str, Tensor]
    stacked: Stacked
    loaded: set[str]
    absent: type[object]
    scales: list[NamedWeight] = field(default_factory=list)
    others: list[NamedWeight] = field(default_factory=list)

    def __iter__(self) -> Iterator[NamedWeight]:
        fused = False
        for checkpoint_name, weight in self.weights:
            name = self.model._rename_weight_for_modelopt_checkpoint(checkpoint_name)
            match self.route(name, weight, fused=fused):
                case Route.STREAM:
                    fused = fused or has_fused_experts(name)
                    yield name, weight
                case Route.SPREAD:
                    # Not by its value on the host, which would have to wait for the GPU.
                    self.params[name].data.copy_(weight.reshape(()))
                    self.loaded.add(name)
                case Route.SCALE:
                    self.scales.append((name, weight.clone()))
                case Route.OTHER:
                    self._place(name, weight)
                case Route.JOINED:
                    self.others.append((name, weight))
                case Route.ABSENT:
                    pass
            # The next tensor is made while this frame waits for it.
            del weight

    def _place(self, name: str, weight: Tensor) -> None:
        """Write one weight of the vision tower or the projector."""
        one = [(name, weight)]
        self.loaded.update(self.model._load_other_weights(one, self.params, self.stacked))

    def route(self, name: str, weight: Tensor, *, fused: bool) -> Route:
        """Where the weight of this (renamed) name goes, after fused expert weights or not."""
        if isinstance(getattr(self.model, name.split(".", 1)[0]), self.absent):
            return Route.ABSENT
        if not name.startswith("language_model."):
            joined = self.model.use_data_parallel and _JOINED.search(name)
            return Route.JOINED if joined else Route.OTHER
        if not is_expert_scale(name):
            return Route.STREAM
        if weight.numel() != 1:
            return Route.STREAM if reads_alike(name, fused=fused) else Route.SCALE
        if name in self.params and self.params[name].numel() > 1:
            return Route.SPREAD
        return Route.SCALE


def split_weights(
    model: Llama4Multimodal,
    weights: Iterable[NamedWeight],
    params: Mapping[str, Tensor],
    stacked: Stacked,
    loaded: set[str],
    absent: type[object],
) -> tuple[LanguageWeightStream, list[NamedWeight], list[NamedWeight]]:
    """The stream, and the expert scales and other weights that fill while it is consumed.

    ``params`` are the model's parameters by name, ``stacked`` says which of the others are parts of
    one, ``loaded`` takes the names written on the way, ``absent`` is the class that stands in for
    modules on other pipeline stages.
    """
    stream = LanguageWeightStream(
        model=model,
        weights=weights,
        params=params,
        stacked=stacked,
        loaded=loaded,
        absent=absent,
    )
    return stream, stream.scales, stream.others


def is_expert_scale(name: str) -> bool:
    """Whether upstream treats this name as a scale of routed experts."""
    return "feed_forward.experts." in name and "scale" in name and ".shared_expert" not in name


def has_fused_experts(name: str) -> bool:
    """Whether the tensor of this name holds all experts, in upstream's checkpoint naming."""
    return _FUSED_EXPERTS.search(name) is not None


def reads_alike(name: str, *, fused: bool) -> bool:
    """Whether a scale is read among the weights as in a pass of its own.

    A fused scale is if fused weights came before it, a single expert's if none did, and one named
    after its parameter (``experts.w13_weight_scale``) always.
    """
    if has_fused_experts(name):
        return fused
    return not fused or _ONE_EXPERT.search(name) is None
