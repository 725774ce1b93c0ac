# SPDX-License-Identifier: Apache-2.0
"""What came back for one request."""

from dataclasses import dataclass
from enum import Enum


class Outcome(str, Enum):
    """How a request ended."""

    DONE = "done"
    CANCELLED = "cancelled"
    """We closed the connection on purpose."""
    STALLED = "stalled"
    """Nothing came for longer than the limit."""
    DROPPED = "dropped"
    """The connection ended before the answer did, or couldn't be made."""
    ERROR = "error"
    """The server said that it failed, or what it sent isn't an answer."""
    BUSY = "busy"
    """The server said that it takes no more requests now (429 or 503)."""
    REFUSED = "refused"
    """The server doesn't take this request (any other 4xx)."""


FAILED = (Outcome.STALLED, Outcome.DROPPED, Outcome.ERROR)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token of an answer, with log probabilities in nats."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    """The most likely tokens at its place, as the server gave them."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer; `first_s` and `total_s` are seconds since the request was sent."""

    outcome: Outcome
    text: str = ""
    tokens: tuple[Token, ...] = ()
    """Empty where the server gives no log probabilities."""
    pieces: int = 0
    """Events of the stream that brought text."""
    first_s: float | None = None
    total_s: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str | None = None
    status: int | None = None
    detail: str = ""

    @property
    def ended(self) -> bool:
        """Whether the text is all that the server had to say."""
        return self.outcome is Outcome.DONE

    @property
    def generated(self) -> int:
        """Tokens that came, or pieces where the server doesn't count."""
        return self.pieces if self.completion_tokens is None else self.completion_tokens
