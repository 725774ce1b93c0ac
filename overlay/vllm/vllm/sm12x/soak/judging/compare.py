# SPDX-License-Identifier: Apache-2.0
"""Two answers to one prompt: where they part, and how near the choice was there."""

from dataclasses import dataclass

from ..server.answers import Answer, Outcome, Token


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where two answers part."""

    place: int
    """Characters that they have in common."""
    gap: float | None
    """Nats by which either answer's own model put its token before the other's; with the least
    that it can be where the other's isn't among the listed. None without log probabilities."""


def difference(reference: Answer, other: Answer) -> Difference | None:
    """Return where `other` leaves the reference, or None if it doesn't.

    An answer that we cancelled is held to what came of it.
    """
    cut = other.outcome is Outcome.CANCELLED
    if reference.text == other.text or (cut and reference.text.startswith(other.text)):
        return None
    place = _common(reference.text, other.text)
    return Difference(place=place, gap=_gap(reference.tokens, other.tokens, cut))


def drift(reference: Answer, other: Answer, *, share: float = 1.0) -> float:
    """Return the largest change of a log probability ratio, in nats, as far as both go together.

    With a share, over the first so many of the tokens that they have in common.
    Ratios of the listed tokens to the chosen one: a model's noise moves the unlikely ones as well,
    so that sure answers show it too.
    """
    largest = 0.0
    both = list(zip(reference.tokens, other.tokens, strict=False))
    parted = (place for place, (mine, its) in enumerate(both) if mine.text != its.text)
    for mine, its in both[: int(share * next(parted, len(both)))]:
        first, second = dict(mine.top), dict(its.top)
        for name in first.keys() & second.keys():
            ratio = (first[name] - mine.logprob) - (second[name] - its.logprob)
            # A forbidden token may have minus infinity in both.
            if ratio == ratio and abs(ratio) != float("inf"):
                largest = max(largest, abs(ratio))
    return largest


def _common(first: str, second: str) -> int:
    for place, (mine, its) in enumerate(zip(first, second, strict=False)):
        if mine != its:
            return place
    return min(len(first), len(second))


def _gap(mine: tuple[Token, ...], its: tuple[Token, ...], cut: bool) -> float | None:
    if not mine or not its:
        return None
    for first, second in zip(mine, its, strict=False):
        if first.text != second.text:
            return max(_lead(first, second.text), _lead(second, first.text))
    if len(mine) == len(its) or (cut and len(its) < len(mine)):
        return 0.0
    # One of them ended here. The end is a token too, and isn't told by name; it was near if any
    # other token was.
    longer = mine if len(mine) > len(its) else its
    others = [value for _, value in longer[min(len(mine), len(its))].top]
    return max(others) - sorted(others)[-2] if len(others) > 1 else None


def _lead(chosen: Token, other: str) -> float:
    top = dict(chosen.top)
    if not top:
        return 0.0
    best = max(chosen.logprob, *top.values())
    return best - top.get(other, min(top.values()))
