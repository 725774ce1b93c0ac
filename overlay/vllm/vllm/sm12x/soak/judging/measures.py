# SPDX-License-Identifier: Apache-2.0
"""What can be said of an answer without another one to compare it with."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from ..asking.prompts import Kind, Prompt, fold
from ..server.answers import Answer
from ..server.discover import Endpoint

LONGEST_PERIOD = 64
LEAST_LOOP = 24
# Characters below which a mean over them says little.
LEAST_TEXT = 16
ALPHABET = 256
RIGHT_SHARE = 0.9


def healthy(prompt: Prompt, answer: Answer, endpoint: Endpoint) -> bool:
    """Whether an answer is right: the code that was asked for, numbers in their order."""
    if prompt.kind is Kind.NEEDLE:
        return fold(prompt.expected) in fold(answer.text)
    opening = prompt.opening if endpoint is Endpoint.COMPLETIONS else ""
    return counted(opening + answer.text, prompt.expected) >= RIGHT_SHARE


def counted(text: str, code: str) -> float:
    """Return the share of lines that have the next number and the code; the last may be cut."""
    lines = [line for line in text.split("\n") if line.strip()][:-1]
    numbers = [_number(line) if fold(code) in fold(line) else 0 for line in lines]
    while numbers and numbers[0] == 0:
        numbers.pop(0)  # what a model says or thinks before it counts
    if len(numbers) < 3:
        return 0.0
    right = sum(n == m + 1 for m, n in pairwise(numbers))
    return right / (len(numbers) - 1)


def _number(line: str) -> int:
    found = re.match(r"\D{0,4}(\d{1,9})", line)
    return int(found[1]) if found else 0


def foreign(prompt: Prompt, answer: Answer, codes: Iterable[str]) -> list[str]:
    """Return codes of other conversations that the answer has and its own prompt hasn't."""
    text = fold(answer.text)
    return [code for code in codes if code not in prompt.codes and fold(code) in text]


def looping(text: str) -> float:
    """Return the share of a text that the same few characters make at its end, again and again."""
    longest = 0
    for period in range(1, min(LONGEST_PERIOD, len(text) // 4) + 1):
        same = 0
        while same < len(text) - period and text[-1 - same] == text[-1 - same - period]:
            same += 1
        if same >= 3 * period and same + period >= LEAST_LOOP:
            longest = max(longest, same + period)
    return longest / len(text) if text else 0.0


def surprise(answer: Answer) -> float | None:
    """Return the mean of minus the log probability of the answer's tokens, nats a token."""
    if not answer.tokens:
        return None
    return -sum(max(token.logprob, -100.0) for token in answer.tokens) / len(answer.tokens)


class Habits:
    """Which character follows which in some texts, each text under the name of its prompt."""

    def __init__(self, texts: Sequence[tuple[str, str]]) -> None:
        self._own: dict[str, Counter[str]] = {}
        for name, text in texts:
            self._own.setdefault(name, Counter()).update(_pairs(text))
        self._all: Counter[str] = Counter()
        for counts in self._own.values():
            self._all.update(counts)
        self._firsts = _firsts(self._all)

    def bits(self, name: str, text: str) -> float | None:
        """Return the cross entropy of a text in bits a character, by all prompts but its own.

        Without its own prompt, so that an answer is judged alike whether it is one of the texts or
        not. Half a count for each pair that wasn't seen (Krichevsky and Trofimov).
        """
        if len(text) < LEAST_TEXT:
            return None
        own: Mapping[str, int] = self._own.get(name, Counter())
        own_firsts = _firsts(own)
        total = 0.0
        for pair in _pairs(text):
            seen = self._all.get(pair, 0) - own.get(pair, 0)
            first = self._firsts.get(pair[0], 0) - own_firsts.get(pair[0], 0)
            total -= math.log2((seen + 0.5) / (first + 0.5 * ALPHABET))
        return total / (len(text) - 1)


def _pairs(text: str) -> list[str]:
    return [a + b for a, b in pairwise(text)]


def _firsts(counts: Mapping[str, int]) -> Counter[str]:
    firsts: Counter[str] = Counter()
    for pair, number in counts.items():
        firsts[pair[0]] += number
    return firsts
