# SPDX-License-Identifier: Apache-2.0
"""What vLLM's safetensors iterators are wrapped in: asks the policy, and loads as it says."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .files import pages
from .policy import Decision, Way, decide

logger = logging.getLogger(__name__)

Weights = Iterator[tuple[str, Any]]
_OURS = tuple(way.value for way in Way)


def decided(upstream: Callable[..., Weights]) -> Callable[..., Weights]:
    """Wrap an iterator of upstream's over safetensors files, the plain or the multi-thread one.

    Strategies that aren't ours (eager, torchao), and systems other than Linux, are upstream's
    business, and so is a lazy load. Names, order and values are those of upstream's plain
    iterator; the tensors of a stream are lazy ones.
    """
    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def iterate(*args: Any, **kwargs: Any) -> Weights:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        strategy = given.get("safetensors_load_strategy")
        if sys.platform != "linux" or (strategy is not None and strategy not in _OURS):
            yield from upstream(*args, **kwargs)
            return
        load = Load(
            upstream=lambda: upstream(*call.args, **call.kwargs),
            given=given,
            tools=upstream.__globals__,
        )
        yield from load.run(strategy)

    return iterate


@dataclass(frozen=True, kw_only=True)
class Load:
    """One call of an iterator: its arguments by name, and upstream's module to take tools from."""

    upstream: Callable[[], Weights]
    given: dict[str, Any]
    tools: dict[str, Any]

    def run(self, strategy: str | None) -> Weights:
        from .gather import gather

        try:
            decision = decide(gather(self.files, strategy))
        except OSError:
            # A file can't be looked at: upstream tells the user in its own words.
            yield from self.upstream()
            return
        logger.info("%s", decision.explain())
        try:
            yield from self._weights(decision)
        finally:
            if decision.facts.weights_share_memory:
                # Memory is about to be profiled, and these pages are the GPU's memory, too.
                pages.give_back_files(self.files)

    @property
    def files(self) -> Sequence[str]:
        """The files in the order in which upstream's iterator goes through them."""
        files: list[str] = self.given["hf_weights_files"]
        if self._is_plain:
            return sorted(files, key=self.tools["_natural_sort_key"])
        return files

    @property
    def _is_plain(self) -> bool:
        """Whether this is the iterator that has strategies."""
        return "safetensors_load_strategy" in self.given

    def _weights(self, decision: Decision) -> Weights:
        from .facts.node import announce

        match decision.way:
            case Way.STREAM:
                return self._stream(decision)
            case Way.WINDOW:
                return self._window(decision)
            case Way.PREFETCH:
                self._prefetch()
            case Way.LAZY:
                announce()
        if decision.facts.asked and self._is_plain:
            # Upstream would read ahead by itself from some file systems.
            self.given["safetensors_load_strategy"] = "lazy"
        return self.upstream()

    def _prefetch(self) -> None:
        """Start upstream's own threads, with the files that this rank reads for its machine."""
        from .facts.node import find_neighbours
        from .gather import world_size

        # Upstream shares out over the whole world, by taking each so many-th of the files that it
        # is given. Each machine has a page cache of its own, so here each is given so many times.
        share = find_neighbours().share(self.files)
        files = [file for file in share for _ in range(world_size())]
        options = {
            "num_prefetch_threads": self.given.get("safetensors_prefetch_num_threads"),
            "block_size": self.given.get("safetensors_prefetch_block_size"),
        }
        known = {name: value for name, value in options.items() if value is not None}
        self.tools["_prefetch_all_checkpoints"](files, **known)

    def _window(self, decision: Decision) -> Weights:
        from .. import envs
        from .facts.node import find_neighbours
        from .gather import reads_by_advice
        from .window.fill import Shape, Window
        from .window.mapped import mapped_tensors

        checkpoint = self._checkpoint(decision, exact=False)
        by_advice = reads_by_advice(decision.facts)
        shape = Shape(
            ahead=decision.window_bytes,
            block=envs.get("VLLM_SM12X_LOADING_BLOCK_MIB") << 20,
            threads=envs.get("VLLM_SM12X_LOADING_THREADS") or (2 if by_advice else 8),
            by_advice=by_advice,
        )
        neighbours = find_neighbours()
        window = Window(checkpoint, shape, neighbours=neighbours, own=self._is_own)
        return mapped_tensors(checkpoint, window, self._progress(decision))

    def _stream(self, decision: Decision) -> Weights:
        from .. import envs
        from .facts.node import find_neighbours
        from .stream.streamed import Sizes, streamed_tensors

        checkpoint = self._checkpoint(decision, exact=True)
        sizes = Sizes(
            slots=envs.get("VLLM_SM12X_STREAM_MIB") << 20,
            threads=envs.get("VLLM_SM12X_LOADING_THREADS") or 4,
        )
        # Nobody goes on before all have said what they need.
        find_neighbours()
        return streamed_tensors(checkpoint, sizes, self._progress(decision))

    def _checkpoint(self, decision: Decision, *, exact: bool) -> Any:
        from .files.checkpoint import Checkpoint
        from .gather import can_lock

        checkpoint = Checkpoint(
            self.files,
            skip=self._skips,
            local=can_lock(decision.facts),
            drop=decision.drop,
            exact=exact,
        )
        checkpoint.hold_all()
        return checkpoint

    def _skips(self, name: str) -> bool:
        """Whether upstream's iterator leaves a tensor out: an expert of another rank."""
        local: set[int] | None = self.given.get("local_expert_ids")
        return local is not None and bool(self.tools["should_skip_weight"](name, local))

    def _is_own(self, name: str) -> bool:
        """Whether the other ranks leave a tensor out."""
        local = self.given.get("local_expert_ids")
        return local is not None and bool(self.tools["should_skip_weight"](name, set()))

    def _progress(self, decision: Decision) -> Any:
        shown = self.tools["enable_tqdm"](self.given.get("use_tqdm_on_load", False))
        return self.tools["tqdm"](
            self.files,
            desc=f"Loading safetensors checkpoint shards ({decision.way.value})",
            disable=not shown,
            bar_format=self.tools["_BAR_FORMAT"],
        )
