# SPDX-License-Identifier: Apache-2.0
"""Two language models for a server on the CPU: one that reads codes, one of transformers' own.

`Reader` continues a text by what stood after the longest like passage before, and counts; so it
finds codes as a large model does. `tiny` is a Llama of random weights: it finds nothing, and all of
its answer hangs on all of its key-value cache.

Both keep a prefix cache of blocks. A block's key covers everything before it; with `stale` it
covers the block alone, so that a block comes back after another prefix.
"""

import hashlib
import math
import random
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

BLOCK = 32
END = ""
"""The token that ends an answer."""

Likely = list[tuple[str, float]]
"""Tokens and their log probabilities in nats, the most likely first."""


class Model(Protocol):
    """What a server needs of a model."""

    context: int

    def start(self, text: str, cold: bool) -> Any:
        """Read a prompt and return its state."""

    def count(self, text: str) -> int:
        """Return how many tokens a text has."""

    def step(self, states: list[Any]) -> list[Likely]:
        """Return for each state what may come next."""

    def push(self, state: Any, token: str) -> None:
        """Add a token."""

    def spoil(self, state: Any, rng: random.Random) -> None:
        """Damage what was read, as a fault in a cache does."""


def keys(tokens: list[str], stale: bool) -> list[str]:
    """Return the key of each whole block of a prompt."""
    found: list[str] = []
    before = ""
    for start in range(0, len(tokens) - BLOCK, BLOCK):
        block = f"{start}:" + "\x00".join(tokens[start : start + BLOCK])
        before = hashlib.sha256((block if stale else before + block).encode()).hexdigest()
        found.append(before)
    return found


@dataclass
class Read:
    """A text as tokens, and where each pair of them stands."""

    tokens: list[str] = field(default_factory=list)
    places: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, token: str) -> None:
        self.tokens.append(token)
        if len(self.tokens) > 1:
            self.places.setdefault((self.tokens[-2], token), []).append(len(self.tokens))


class Reader:
    """Continues by the longest match; whole blocks of a stale cache are those of another prompt."""

    def __init__(self, *, context: int = 900, stale: bool = False) -> None:
        self.context, self.stale = context, stale
        self.blocks: dict[str, list[str]] = {}

    def count(self, text: str) -> int:
        return len(_words(text))

    def start(self, text: str, cold: bool) -> Read:
        tokens = _words(text)
        read: list[str] = []
        for place, key in enumerate([] if cold else keys(self._addresses(tokens), self.stale)):
            own = tokens[place * BLOCK : (place + 1) * BLOCK]
            read += self.blocks.setdefault(key, own)
        state = Read()
        for token in read + tokens[len(read) :]:
            state.add(token)
        return state

    def _addresses(self, tokens: list[str]) -> list[str]:
        # The cache's fault: codes are no part of the key, so another's block is taken for this.
        return ["" if self.stale and re.fullmatch(r" ?(\d+|[A-Z]{2})", t) else t for t in tokens]

    def push(self, state: Read, token: str) -> None:
        state.add(token)

    def spoil(self, state: Read, rng: random.Random) -> None:
        words = list(state.tokens)
        rng.shuffle(words)
        state.tokens, state.places = [], {}
        for word in words:
            state.add(word)

    def step(self, states: list[Read]) -> list[Likely]:
        return [self._next(state) for state in states]

    def _next(self, state: Read) -> Likely:
        tokens = state.tokens
        scores: dict[str, float] = {}
        if (counted := _counting(tokens)) is not None:
            scores[counted] = 12.0
        elif tokens[-1] == "." and tokens[-2:-1] and re.fullmatch(r"\d{5}", tokens[-2]):
            scores[END] = 12.0
        for place in state.places.get((tokens[-2], tokens[-1]), [])[-64:]:
            if place < len(tokens):
                length = _same(tokens, place)
                scores[tokens[place]] = max(scores.get(tokens[place], 0.0), float(length))
        for token in tokens[-3:]:
            scores.setdefault(token, 0.0)
        total = math.log(sum(math.exp(score) for score in scores.values()))
        likely = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        return [(token, score - total) for token, score in likely]


def _words(text: str) -> list[str]:
    return re.findall(r" ?[A-Za-z]+| ?\d+|\n|[^A-Za-z0-9\n]", text)


def _same(tokens: list[str], place: int) -> int:
    length = 2
    while length < 10 and place > length and tokens[place - 1 - length] == tokens[-1 - length]:
        length += 1
    return length


def _counting(tokens: list[str]) -> str | None:
    tail = tokens[-12:]
    lines = "".join(tail)
    if found := re.search(r"(?:^|\n| )(\d+)( [A-Z]{2})-\d{5}\n$", lines):
        return str(int(found[1]) + 1)
    if found := re.search(r"( [A-Z]{2})-\d{5}\n\d+$", lines):
        return found[1]
    if re.search(r"\n\d+ [A-Z]{2}$", lines):
        return "-"
    if re.search(r"\n\d+ [A-Z]{2}-\d{5}$", lines):
        return "\n"
    return None


LETTERS = "".join(map(chr, range(32, 127))) + "\n"


class Tiny:
    """A Llama of transformers with random weights, a token a character, batched as it decodes."""

    def __init__(self, *, context: int = 1536, stale: bool = False) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        self.torch = torch
        self.context, self.stale = context, stale
        torch.manual_seed(7)
        config = LlamaConfig(
            vocab_size=len(LETTERS), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2 * context,
            initializer_range=0.35, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config).eval()
        self.blocks: dict[str, list[tuple[Any, Any]]] = {}

    def count(self, text: str) -> int:
        return len(text)

    def start(self, text: str, cold: bool) -> "Cached":
        letters = [letter if letter in LETTERS else "?" for letter in text]
        names = [] if cold else keys(letters, self.stale)
        known = []
        for name in names:
            if name not in self.blocks:
                break
            known.append(self.blocks[name])
        layers = [
            tuple(self.torch.cat([block[layer][half] for block in known], dim=2) for half in (0, 1))
            for layer in range(2 if known else 0)
        ]
        state = Cached(layers=layers, length=len(known) * BLOCK)
        # The last letter is read with the first step.
        self._read([state], [letters[state.length : -1]])
        state.last = letters[-1]
        for place, name in enumerate(names[len(known) :], start=len(known)):
            part = slice(place * BLOCK, (place + 1) * BLOCK)
            self.blocks[name] = [
                (k[:, :, part].clone(), v[:, :, part].clone()) for k, v in state.layers
            ]
        return state

    def step(self, states: list["Cached"]) -> list[Likely]:
        logits = self._read(states, [[state.last] for state in states])
        best = logits.log_softmax(-1).topk(6)
        return [
            [(LETTERS[i], value) for i, value in zip(ids, values, strict=True)]
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def push(self, state: "Cached", token: str) -> None:
        state.last = token

    def spoil(self, state: "Cached", rng: random.Random) -> None:
        generator = self.torch.Generator().manual_seed(rng.randrange(1 << 30))
        for keys_, values in state.layers:
            for tensor in (keys_, values):
                tensor.copy_(self.torch.randn(tensor.shape, generator=generator))

    def _read(self, states: list["Cached"], letters: list[list[str]]) -> Any:
        torch = self.torch
        rows, width = len(states), len(letters[0])
        if not width:
            return None
        longest = max(state.length for state in states)
        cache = _new_cache()
        for layer in range(2 if longest else 0):
            pairs = [state.layers[layer] if state.layers else None for state in states]
            shape = next(pair for pair in pairs if pair is not None)[0].shape
            halves = []
            for half in (0, 1):
                padded = torch.zeros(rows, shape[1], longest, shape[3])
                for row, pair in enumerate(pairs):
                    if pair is not None:
                        padded[row, :, longest - states[row].length :] = pair[half][0]
                halves.append(padded)
            cache.update(halves[0], halves[1], layer)
        mask = torch.zeros(rows, longest + width, dtype=torch.long)
        places = torch.zeros(rows, width, dtype=torch.long)
        for row, state in enumerate(states):
            mask[row, longest - state.length :] = 1
            places[row] = torch.arange(state.length, state.length + width)
        ids = torch.tensor([[LETTERS.index(letter) for letter in some] for some in letters])
        with torch.no_grad():
            out = self.model(
                input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
        for row, state in enumerate(states):
            state.layers = [
                (k[row : row + 1, :, longest - state.length :].clone(),
                 v[row : row + 1, :, longest - state.length :].clone())
                for k, v in _layers(out.past_key_values)
            ]  # fmt: skip
            state.length += width
        return out.logits[:, -1].float()


@dataclass
class Cached:
    """Keys and values of a text, each (1, heads, length, width), and the letter that comes next."""

    layers: list[Any] = field(default_factory=list)
    length: int = 0
    last: str = ""


def _new_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _layers(cache: Any) -> list[tuple[Any, Any]]:
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))
