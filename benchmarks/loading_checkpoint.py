# SPDX-License-Identifier: Apache-2.0
"""A synthetic checkpoint of a mixture of experts, and what a rank's weight loaders take of it."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Qwen3-30B-A3B's sizes, in bfloat16: a layer has 1.16 GiB, of which 3 % aren't experts.
HIDDEN, EXPERT, HEADS, KV_HEADS, HEAD, EXPERTS = 2048, 768, 32, 4, 128, 128
VOCABULARY = 8192
SHARD_BYTES = 256 << 20
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_NOISE = random.Random(5).randbytes(16 << 20)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A tensor: `split` is the dimension that ranks share, None for one that all take whole."""

    name: str
    shape: tuple[int, ...]
    split: int | None = None

    @property
    def size(self) -> int:
        elements = 2
        for length in self.shape:
            elements *= length
        return elements


def weights(gib: float) -> Iterator[Weight]:
    """Yield tensors until there are `gib` of them; the last layer may have fewer experts."""
    left = int(gib * 2**30)
    yield Weight(name="model.embed_tokens.weight", shape=(VOCABULARY, HIDDEN), split=0)
    yield Weight(name="model.norm.weight", shape=(HIDDEN,))
    left -= VOCABULARY * HIDDEN * 2
    layer = 0
    while left > 0:
        rest = list(_attention(f"model.layers.{layer}"))
        yield from rest
        left -= sum(weight.size for weight in rest)
        size = 3 * EXPERT * HIDDEN * 2
        # A multiple of eight, so that up to eight ranks share the experts out evenly.
        experts = min(EXPERTS, max(8, left // size // 8 * 8))
        for expert in range(experts):
            stem = f"model.layers.{layer}.mlp.experts.{expert}"
            yield Weight(name=f"{stem}.down_proj.weight", shape=(HIDDEN, EXPERT))
            yield Weight(name=f"{stem}.gate_proj.weight", shape=(EXPERT, HIDDEN))
            yield Weight(name=f"{stem}.up_proj.weight", shape=(EXPERT, HIDDEN))
        left -= experts * size
        if experts < EXPERTS:
            return
        layer += 1


def _attention(stem: str) -> Iterator[Weight]:
    yield Weight(name=f"{stem}.input_layernorm.weight", shape=(HIDDEN,))
    yield Weight(name=f"{stem}.post_attention_layernorm.weight", shape=(HIDDEN,))
    yield Weight(name=f"{stem}.mlp.gate.weight", shape=(EXPERTS, HIDDEN))
    for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        # Up to four ranks share four heads; more take the same head.
        split = 0 if heads >= 8 else None
        yield Weight(
            name=f"{stem}.self_attn.{name}_proj.weight", shape=(heads * HEAD, HIDDEN), split=split
        )
    yield Weight(name=f"{stem}.self_attn.o_proj.weight", shape=(HIDDEN, HEADS * HEAD), split=1)


def write(folder: Path, gib: float, *, shuffled: bool) -> list[str]:
    """Write the checkpoint's shards and return their paths, in the order of a load.

    A load goes through a shard by name. `shuffled`: tensors lie in the file in another order.
    """
    shards: list[list[Weight]] = [[]]
    for weight in weights(gib):
        if sum(w.size for w in shards[-1]) + weight.size > SHARD_BYTES:
            shards.append([])
        shards[-1].append(weight)
    paths = []
    for number, shard in enumerate(shards, 1):
        path = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        shard.sort(key=lambda weight: weight.name)
        if shuffled:
            random.Random(number).shuffle(shard)
        _write_shard(path, shard)
        paths.append(str(path))
    return paths


def _write_shard(path: Path, shard: list[Weight]) -> None:
    described: dict[str, Any] = {}
    at = 0
    for weight in shard:
        place = [at, at + weight.size]
        described[weight.name] = {"dtype": "BF16", "shape": weight.shape, "data_offsets": place}
        at += weight.size
    head = json.dumps(described).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for number, weight in enumerate(shard):
            # Other bytes for each tensor, so that a mix-up would show.
            noise = _NOISE[8 * number :] + _NOISE[: 8 * number]
            for start in range(0, weight.size, len(noise)):
                file.write(noise[: weight.size - start])
        # A page that has yet to be written can't be evicted.
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A rank of a tensor- and expert-parallel group."""

    index: int
    count: int
    splits: dict[str, int | None]

    def take(self, name: str, tensor: Any) -> Any | None:
        """Return what this rank takes of a tensor: a view of it, or None for another's expert."""
        expert = _EXPERT.search(name)
        if expert is not None:
            mine = int(expert[1]) % self.count == self.index
            return tensor if mine else None
        dim = self.splits[name]
        if dim is None:
            return tensor
        length = tensor.shape[dim] // self.count
        return tensor.narrow(dim, self.index * length, length)

    def needed(self, gib: float) -> int:
        """Bytes of this rank's parameters."""
        total = 0
        for weight in weights(gib):
            expert = _EXPERT.search(weight.name)
            if expert is not None:
                total += weight.size * (int(expert[1]) % self.count == self.index)
            else:
                total += weight.size // (self.count if weight.split is not None else 1)
        return total


def rank_of(index: int, count: int, gib: float) -> Rank:
    splits = {weight.name: weight.split for weight in weights(gib)}
    return Rank(index=index, count=count, splits=splits)
