# SPDX-License-Identifier: Apache-2.0
"""Conversations whose answers can be checked: notes with codes in them, questions about the codes.

Conversations come in families of two that share their notes but for one sentence, in which the
code is another. So an answer with the other's code shows that a prefix of the other was used. In
every second family that sentence is the first one: no prefix is shared there, so none can be stale.
"""

import random
import re
from dataclasses import dataclass
from enum import Enum

from ..errors import SoakError
from ..server.discover import Endpoint, Server

PLACES = (
    "lighthouse", "boathouse", "granary", "observatory", "cistern", "foundry", "archive",
    "glasshouse", "bakery", "mill", "chapel", "smithy", "tannery", "brewery", "arsenal", "library",
)  # fmt: skip
_COLOURS = ("grey", "green", "amber", "white", "black", "copper", "blue", "violet")
_BOATS = ("ferry", "barge", "cutter", "schooner", "tug", "lugger", "ketch", "trawler")
_GOODS = ("tin", "barley", "rope", "salt", "timber", "wool", "glass", "lamp oil", "paper", "slate")
_QUAYS = ("northern", "southern", "inner", "outer", "old", "new", "eastern", "western")
_LETTERS = "BCDFGHJKLMNPQRTVWXZ"
# Characters that the smallest notes need: a few sentences and two codes.
LEAST_NOTES = 320
COUNT_LINE_CHARS = 12


class Kind(str, Enum):
    """What is asked."""

    NEEDLE = "needle"
    """A code that stands in the notes."""
    COUNT = "count"
    """A long list of numbers, each with a code."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request of a conversation, with what came before it."""

    name: str
    family: int
    member: int
    turn: int
    early: bool
    """Whether the family's members differ from the first character on."""
    kind: Kind
    depth: float
    """Where in the notes the code stands that is asked for, 0 to 1."""
    messages: tuple[tuple[str, str], ...]
    """Role and text."""
    opening: str
    """How the answer begins, which the text of a completion ends with."""
    expected: str
    """The code of the right answer."""
    codes: frozenset[str]
    """The codes that stand in the prompt."""
    max_tokens: int

    def content(self, endpoint: Endpoint) -> str | list[dict[str, str]]:
        """Return what is sent: messages, or one text that ends where the answer begins."""
        if endpoint is Endpoint.CHAT:
            return [{"role": role, "content": text} for role, text in self.messages]
        turns = (f"Q: {t}" if role == "user" else f"A: {t}" for role, t in self.messages)
        return "\n\n".join(turns).removeprefix("Q: ") + f"\n\nA: {self.opening}"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Requests that are sent one after the other."""

    prompts: tuple[Prompt, ...]
    size: int
    """Characters of the last request."""


def conversations(
    server: Server,
    *,
    families: int,
    depths: tuple[float, ...],
    answer_tokens: int,
    count_tokens: int,
    seed: int,
    first: int = 0,
) -> tuple[Conversation, ...]:
    """Return two conversations a family, their lengths spread up to the context of the server."""
    longest = notes_chars(server, max(answer_tokens, count_tokens))
    maker = _Maker(seed=seed, depths=depths, answer_tokens=answer_tokens, count_tokens=count_tokens)
    made: list[Conversation] = []
    for place, size in enumerate(sizes(longest, families)):
        made += maker.family(first + place, size)
    return tuple(made)


def notes_chars(server: Server, answer_tokens: int) -> int:
    """Return how many characters of notes the context holds. Raises SoakError if too few."""
    # A token more in a hundred than the probe's text has, since no two texts have the same.
    left = (server.context - server.overhead * 5 - answer_tokens) * server.chars_per_token * 0.93
    questions = 620
    if left - questions < LEAST_NOTES:
        needed = server.overhead * 5 + answer_tokens
        needed += int((LEAST_NOTES + questions) / server.chars_per_token / 0.93) + 1
        raise SoakError(
            f"A context of {server.context} tokens ({server.context_from}) is too small: the "
            f"shortest conversation and its answer take {needed}. Serve a longer one, or ask for "
            "shorter answers with --count-tokens and --answer-tokens."
        )
    return int(left - questions)


def sizes(longest: int, families: int) -> list[int]:
    """Return lengths in characters, from the longest down, each some factor below the last."""
    if families == 1:
        return [longest]
    least = min(longest, max(LEAST_NOTES, longest // 256, 1200))
    ratio = (least / longest) ** (1 / (families - 1))
    return [max(LEAST_NOTES, int(longest * ratio**step)) for step in range(families)]


def fold(text: str) -> str:
    """Return a text's letters and digits alone: markup is no matter where a code is looked for."""
    return re.sub(r"[^0-9A-Z]", "", text.upper())


class _Maker:
    def __init__(
        self, *, seed: int, depths: tuple[float, ...], answer_tokens: int, count_tokens: int
    ) -> None:
        self.seed, self.depths = seed, depths
        self.answer_tokens, self.count_tokens = answer_tokens, count_tokens

    def family(self, number: int, size: int) -> list[Conversation]:
        early = number % 2 == 1
        rng = random.Random(f"{self.seed}/{number}")
        places = rng.sample(PLACES, 2)
        codes = [code(rng) for _ in range(3)]
        own_depth = 0.0 if early else self.depths[number // 2 % len(self.depths)]
        shared_depth = self.depths[(number // 2 + 1) % len(self.depths)]
        notes = _sentences(rng, size)
        made = []
        for member in (0, 1):
            mine = codes[1 + member]
            text = _place(
                notes, [(own_depth, places[0], mine), (shared_depth, places[1], codes[0])]
            )
            asked = [(places[0], mine, own_depth), (places[1], codes[0], shared_depth)]
            made.append(self._conversation(number, member, early, text, asked))
        return made

    def _conversation(
        self,
        number: int,
        member: int,
        early: bool,
        notes: str,
        asked: list[tuple[str, str, float]],
    ) -> Conversation:
        history: tuple[tuple[str, str], ...] = ()
        prompts: list[Prompt] = []
        (place, mine, depth), _ = asked
        turns: list[tuple[Kind, str, str, str, str, float]] = []
        for where, found, at in asked:
            opening = f"The access code of the {where} is"
            question = f"What is the access code of the {where}? Answer with one short sentence."
            turns.append((Kind.NEEDLE, question, opening, f"{opening} {found}.", found, at))
        last = max(8, self.count_tokens // 6)
        counting = (
            f"Write the numbers from 1 to {last} in order, each on a line of its own and followed "
            f"by the access code of the {place}. Write nothing else."
        )
        turns.append((Kind.COUNT, counting, f"1 {mine}\n2 {mine}\n3", "", mine, depth))
        for turn, (kind, question, opening, reply, expected, at) in enumerate(turns):
            told = f"{notes}\n\n{question}" if turn == 0 else question
            history = (*history, ("user", told))
            prompts.append(
                Prompt(
                    name=f"family {number}{'ab'[member]}, turn {turn + 1}",
                    family=number,
                    member=member,
                    turn=turn,
                    early=early,
                    kind=kind,
                    depth=at,
                    messages=history,
                    opening=opening,
                    expected=expected,
                    codes=frozenset(found for _, found, _ in asked),
                    max_tokens=self.count_tokens if kind is Kind.COUNT else self.answer_tokens,
                )
            )
            history = (*history, ("assistant", reply))
        size = sum(len(text) for _, text in prompts[-1].messages)
        return Conversation(prompts=tuple(prompts), size=size)


def code(rng: random.Random) -> str:
    """Return a code that no text has by chance."""
    return "".join(rng.sample(_LETTERS, 2)) + "-" + "".join(rng.choices("23456789", k=5))


def _sentences(rng: random.Random, size: int) -> list[str]:
    found: list[str] = []
    length = 0
    while length < size - 150 or not found:
        sentence = (
            f"On day {rng.randint(2, 365)} the {rng.choice(_COLOURS)} {rng.choice(_BOATS)} carried "
            f"{rng.randint(2, 90)} crates of {rng.choice(_GOODS)} to the {rng.choice(_QUAYS)} quay."
        )
        found.append(sentence)
        length += len(sentence) + 1
    return found


def _place(notes: list[str], needles: list[tuple[float, str, str]]) -> str:
    lines = list(notes)
    # From the last place to the first, so that one that is put in doesn't move the next.
    for depth, place, found in sorted(needles, reverse=True):
        said = f"{found} is" if depth == 0 else f"The access code of the {place} is {found}."
        if depth == 0:
            said += f" the access code of the {place}. The access code of the {place} is {found}."
        lines.insert(round(depth * len(notes)), said)
    return " ".join(lines)
