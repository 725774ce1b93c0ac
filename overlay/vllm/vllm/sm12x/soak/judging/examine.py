# SPDX-License-Identifier: Apache-2.0
"""What is wrong with one answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..asking.prompts import Kind
from ..asking.records import ALONE, Phase, Record
from ..server.answers import FAILED, Answer, Outcome
from ..server.discover import Endpoint
from .compare import Difference, difference
from .level import Compare, Level, near
from .measures import foreign, healthy

# Two answers of so many characters aren't the same by chance.
LEAST_SAME = 24
SHOWN = 240


class Sign(str, Enum):
    """A way in which an answer is wrong."""

    FOREIGN = "foreign code"
    """It has a code that stands in another conversation only."""
    OTHERS = "another's answer"
    """It is the answer to another prompt."""
    DIFFERS = "differs"
    """It leaves the reference where no choice was near."""
    APART = "differs, yet right"
    """It leaves the reference, and all that can be checked in it is right."""
    STALLED = "stalled"
    DROPPED = "dropped"
    ERROR = "error"


_FAILED = {
    Outcome.STALLED: Sign.STALLED,
    Outcome.DROPPED: Sign.DROPPED,
    Outcome.ERROR: Sign.ERROR,
    # A prompt that was taken before, or one like it.
    Outcome.REFUSED: Sign.ERROR,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One wrong answer, with what a person needs to look into it."""

    sign: Sign
    record: Record
    why: str
    expected: str
    got: str
    place: int
    """Characters of the answer before it goes wrong."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What answers are held against."""

    references: Mapping[str, Answer]
    owners: Mapping[str, Sequence[str]]
    """Reference texts of some length, and the prompts that have them."""
    codes: Mapping[str, str]
    """Every code of the run, and the conversation that it is of."""
    level: Level
    endpoint: Endpoint
    checked: frozenset[Kind]
    """Kinds of prompts whose answers the model gets right when alone."""


def examine(record: Record, known: Known) -> Finding | None:
    """Return the gravest thing that is wrong with an answer, or None."""
    return next(_signs(record, known), None)


def _signs(record: Record, known: Known) -> Iterator[Finding]:
    answer, prompt = record.answer, record.prompt
    if strange := foreign(prompt, answer, known.codes):
        owners = ", ".join(known.codes[code] for code in strange[:3])
        yield _finding(
            record, known, Sign.FOREIGN, f"{', '.join(strange[:3])} is a code of {owners}"
        )
    if answer.outcome in FAILED or answer.outcome is Outcome.REFUSED:
        yield _finding(record, known, _FAILED[answer.outcome], answer.detail)
    reference = known.references.get(prompt.name)
    if (
        reference is None
        or record.phase is Phase.QUIET
        or known.level.of(record.phase) is Compare.MEASURES
        or answer.outcome not in (Outcome.DONE, Outcome.CANCELLED)
    ):
        return
    found = difference(reference, answer)
    if found is None or near(found, known.level.margin):
        return
    whole = answer.text if len(answer.text) >= LEAST_SAME else ""
    others = [name for name in known.owners.get(whole, ()) if name != prompt.name]
    if others:
        yield _finding(record, known, Sign.OTHERS, f"it is the answer of {others[0]}", found.place)
    gap = "" if found.gap is None else f", where the other choice was {found.gap:.2f} nats away"
    why = f"it leaves the reference after {found.place} characters{gap}"
    sign = Sign.APART if _right_anyhow(record, found, known) else Sign.DIFFERS
    yield _finding(record, known, sign, why, found.place)


def _right_anyhow(record: Record, found: Difference, known: Known) -> bool:
    # With log probabilities we know better. Without, a batch of another make-up may tip a near
    # choice that repeats and twins never met, and the answer is as good as the reference.
    return (
        found.gap is None
        and record.phase not in ALONE
        and record.prompt.kind in known.checked
        and record.answer.ended
        and healthy(record.prompt, record.answer, known.endpoint)
    )


def _finding(record: Record, known: Known, sign: Sign, why: str, place: int = 0) -> Finding:
    reference = known.references.get(record.prompt.name)
    start = max(0, place - SHOWN // 3)
    expected = reference.text if reference else record.prompt.expected
    return Finding(
        sign=sign,
        record=record,
        why=why,
        expected=expected[start : start + SHOWN],
        got=record.answer.text[start : start + SHOWN],
        place=place,
    )
