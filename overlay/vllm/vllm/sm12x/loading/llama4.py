# SPDX-License-Identifier: Apache-2.0
"""Load a Llama 4 checkpoint one language-model tensor at a time.

Before v0.24.0 (vllm-project/vllm#44645) ``Llama4ForConditionalGeneration.load_weights`` sorted the
whole checkpoint into lists before it loaded anything. Where the iterator gives private copies
instead of views on mapped files, that needs host memory for all the weights at once.

Here a language-model weight is handed on as it comes and let go before the next is asked for.
Two small groups wait in lists until the language model is done, as upstream has them wait:

* the vision and projector weights, which the model itself loads last;
* expert scales of one value that aren't spread over the experts.

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

_FUSED_EXPERTS = re.compile(r"experts\.(gate_up|down)_proj")
_ONE_EXPERT = re.compile(r"experts\.\d+\.")


class Route(str, Enum):
    """What becomes of one weight of the checkpoint."""

    STREAM = "stream"
    """Handed to the language model at once."""
    SPREAD = "spread"
    """One value, written to all the experts of its parameter at once."""
    SCALE = "scale"
    """Kept for the language model's second pass."""
    OTHER = "other"
    """Kept for the vision tower and the projector."""
    ABSENT = "absent"
    """Dropped: its module isn't on this pipeline stage."""


class Llama4Multimodal(Protocol):
    """What is needed of upstream's Llama4ForConditionalGeneration."""

    def _rename_weight_for_modelopt_checkpoint(self, name: str) -> str: ...


@dataclass(frozen=True, kw_only=True)
class LanguageWeightStream:
    """Language-model weights in checkpoint order; to be iterated once.

    ``scales`` and ``others`` are complete, and ``loaded`` has the names of the parameters that a
    single value was spread over, when the iteration has ended. A weight whose name starts with no
    module of the model raises AttributeError, as upstream does.
    """

    model: Llama4Multimodal
    weights: Iterable[NamedWeight]
    params: Mapping[str, Tensor]
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
                    self.params[name].data.fill_(weight.item())
                    self.loaded.add(name)
                case Route.SCALE:
                    self.scales.append((name, weight))
                case Route.OTHER:
                    self.others.append((name, weight))
                case Route.ABSENT:
                    pass
            # The next tensor is made while this frame waits for it.
            del weight

    def route(self, name: str, weight: Tensor, *, fused: bool) -> Route:
        """Where the weight of this (renamed) name goes, after fused expert weights or not."""
        if isinstance(getattr(self.model, name.split(".", 1)[0]), self.absent):
            return Route.ABSENT
        if not name.startswith("language_model."):
            return Route.OTHER
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
    loaded: set[str],
    absent: type[object],
) -> tuple[LanguageWeightStream, list[NamedWeight], list[NamedWeight]]:
    """The stream, and the expert scales and other weights that fill while it is consumed.

    ``params`` are the model's parameters by name, ``loaded`` takes the names written on the way,
    ``absent`` is the class that stands in for modules on other pipeline stages.
    """
    stream = LanguageWeightStream(
        model=model, weights=weights, params=params, loaded=loaded, absent=absent
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
