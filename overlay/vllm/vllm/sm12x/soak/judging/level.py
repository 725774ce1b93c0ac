# SPDX-License-Identifier: Apache-2.0
"""How exactly answers can be compared, found out from answers that nothing can have mixed up."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..asking.records import ALONE, Phase, Record, references
from ..server.answers import Answer
from .compare import Difference, difference, drift
from .rates import fisher

# A margin of so many times the largest change that was seen between right answers, in nats, within
# these bounds: no two computations agree to the last digit, and two nats are no near choice.
MARGIN = 4.0
LEAST_MARGIN, MOST_MARGIN = 0.02, 2.0
CHANGED = 1e-4

Pair = tuple[Record, Answer, Difference | None]
"""A second answer, the first one, and where they part."""


class Compare(str, Enum):
    """What an answer is held to."""

    EXACT = "exact"
    """The reference, character by character, up to a near choice where the server gives those."""
    TIES = "ties"
    """The reference, up to a near choice between two tokens."""
    MEASURES = "measures"
    """Codes, repetition and entropy: the same prompt has different answers here."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """How answers are compared, and why so."""

    compare: Compare
    """Under load."""
    alone: Compare
    """Of answers given alone."""
    why: str
    pairs: int
    """Answers that were held against their reference to find this out."""
    differing: int
    characters: int
    """Of these answers, as far as they went with the reference."""
    drift: float | None
    """Largest change of a log probability ratio among them, nats."""
    margin: float | None
    """Choices nearer than this are near, nats; None without log probabilities."""
    changed: bool = False
    """The same prompts had the same answers at first, and soon others, all alone."""

    def of(self, phase: Phase) -> Compare:
        """Return what answers of a phase are held to."""
        return self.alone if phase in (*ALONE, Phase.AFTER) else self.compare


def decide(records: Sequence[Record], asked: Compare | None = None) -> Level:
    """Return the level from the repeats and twins among the records."""
    known = references(records)
    pairs = [
        (record, known[record.prompt.name], difference(known[record.prompt.name], record.answer))
        for record in records
        if record.phase in (Phase.AGAIN, Phase.REPEAT, Phase.TWINS)
        and record.answer.ended
        and record.prompt.name in known
    ]
    logprobs = bool(pairs) and all(r.answer.tokens and ref.tokens for r, ref, _ in pairs)
    clean = [pair for pair in pairs if pair[0].phase is not Phase.REPEAT]
    moved = _drift(clean) if logprobs else None
    margin = None if moved is None else min(max(MARGIN * moved, LEAST_MARGIN), MOST_MARGIN)
    again, repeats, twins = (
        [found for record, _, found in pairs if record.phase is phase]
        for phase in (Phase.AGAIN, Phase.REPEAT, Phase.TWINS)
    )
    changed = _changed(again, repeats)
    if changed:
        alone = Compare.EXACT
    elif logprobs:
        # A token that wasn't the likeliest was drawn; so a repeat that differs can be a fault.
        drawn = any(_drawn(record.answer) for record, _, _ in clean)
        alone = Compare.MEASURES if drawn else _level(again, margin)
    else:
        alone = _level([*again, *repeats], margin)
    compare = alone
    if alone is not Compare.MEASURES:
        among = [found for found in twins if found is not None and not near(found, margin)]
        if margin is None and among:
            # Without log probabilities nobody can tell a near choice from a wrong one.
            compare = Compare.MEASURES
        elif any(found is not None for found in twins):
            compare = Compare.TIES
    return Level(
        compare=asked or compare,
        alone=asked or alone,
        why="--compare says so" if asked else _why(again, repeats, twins, margin, changed),
        pairs=len(pairs),
        differing=sum(found is not None for _, _, found in pairs),
        characters=sum(
            len(record.answer.text) if found is None else found.place for record, _, found in pairs
        ),
        drift=moved,
        margin=margin,
        changed=changed,
    )


def near(found: Difference, margin: float | None) -> bool:
    """Whether two answers part where the choice was a near one."""
    return margin is not None and found.gap is not None and found.gap <= margin


def _drift(pairs: Sequence[Pair]) -> float:
    # Of answers that part, what led up to it may be part of the fault.
    return max(
        drift(ref, record.answer, share=1.0 if found is None else 0.5)
        for record, ref, found in pairs
    )


def _drawn(answer: Answer) -> bool:
    return any(
        max((value for _, value in token.top), default=token.logprob) > token.logprob + LEAST_MARGIN
        for token in answer.tokens
    )


def _level(repeats: Sequence[Difference | None], margin: float | None) -> Compare:
    parted = [found for found in repeats if found is not None]
    if not repeats:
        return Compare.MEASURES
    if not parted:
        return Compare.EXACT
    return Compare.TIES if all(near(f, margin) for f in parted) else Compare.MEASURES


def _why(
    again: Sequence[Difference | None],
    repeats: Sequence[Difference | None],
    twins: Sequence[Difference | None],
    margin: float | None,
    changed: bool,
) -> str:
    if changed:
        return "the first prompts that were asked twice had the same answer"
    parts = [
        f"{sum(found is not None for found in some)} of {len(some)} {name}"
        for some, name in (
            (again, "when asked twice"),
            (repeats, "when asked again later"),
            (twins, "among their like"),
        )
        if some
    ]
    if not parts:
        return "no prompt could be asked twice"
    parted = [found for found in (*again, *repeats, *twins) if found is not None]
    if not parted:
        how = ""
    elif margin is None:
        how = "; the server gives no log probabilities, so it can't be told why"
    elif all(near(found, margin) for found in parted):
        how = ", each from a near choice on"
    else:
        how = ", not all from a near choice on"
    return f"answers came otherwise: {', '.join(parts)}{how}"


def _changed(again: Sequence[Difference | None], repeats: Sequence[Difference | None]) -> bool:
    """Whether the first ones were right and later ones weren't, beyond chance."""
    every = [*again, *repeats]
    return any(
        not any(every[:cut])
        and fisher(sum(map(bool, every[cut:])), len(every) - cut, 0, cut) < CHANGED
        for cut in {len(every) // 3, len(again)}
    )
