# SPDX-License-Identifier: Apache-2.0
"""What a run remembers of each request."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ..server.answers import Answer
from .prompts import Prompt


class Phase(str, Enum):
    """When a request was made."""

    QUIET = "quiet"
    """Alone, for the first time: the reference of its prompt."""
    AGAIN = "again"
    """Alone and at once after it, without the prefix cache if the server can do without."""
    REPEAT = "repeat"
    """Alone, once more, later and as anybody asks."""
    TWINS = "twins"
    """At once with others that are the very same, so that there is nothing to mix up; without the
    prefix cache as well."""
    LOAD = "load"
    """Among others of all kinds."""
    AFTER = "after"
    """Alone, after load."""


ALONE = (Phase.QUIET, Phase.AGAIN, Phase.REPEAT)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One request and what became of it."""

    number: int
    phase: Phase
    round: int
    prompt: Prompt
    answer: Answer
    at_s: float
    """When it was sent, in seconds since the run began."""
    in_flight: int
    """Requests that were under way when it was sent, itself among them."""


def references(records: Iterable[Record]) -> dict[str, Answer]:
    """Return the first whole answer that each prompt had alone, by the prompt's name."""
    found: dict[str, Answer] = {}
    for record in records:
        if record.phase is Phase.QUIET and record.answer.ended:
            found.setdefault(record.prompt.name, record.answer)
    return found
