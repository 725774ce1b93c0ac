# SPDX-License-Identifier: Apache-2.0
"""How many requests go where, and in which order."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .prompts import Conversation, Kind, Prompt

LEAST = 40
# Requests of one round; a longer run has several, each with conversations of its own.
ROUND = 240
TURNS = 3
MEMBERS = 2


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Requests of one round, by what they are for."""

    families: int
    pairs: int
    """Prompts that are asked twice, one right after the other, before the others."""
    repeats: int
    twins: int
    """Prompts that are sent `width` times at once."""
    width: int
    load: int
    after: int

    @property
    def quiet(self) -> int:
        return self.families * MEMBERS * TURNS


def share(requests: int, concurrency: int, *, first: bool) -> Shares:
    """Return how a round's requests are shared out; only the first finds out how to compare."""
    families = max(1, requests // 32)
    quiet = families * MEMBERS * TURNS
    pairs = min(12, quiet // 3) if first else 0
    repeats = pairs
    width = min(concurrency, 8)
    twins = (2 if requests >= 2 * LEAST else 1) if first and width > 1 else 0
    after = min(max(3, requests // 8), quiet)
    load = requests - quiet - pairs - repeats - twins * width - after
    return Shares(
        families=families, pairs=pairs, repeats=repeats, twins=twins, width=width,
        load=max(0, load), after=after,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request to make."""

    prompt: Prompt
    cold: bool = False
    """Keep it away from the prefix cache, if the server can."""
    cancel: bool = False


def quiet_jobs(made: Sequence[Conversation], shares: Shares) -> tuple[list[Job], list[Job]]:
    """Return the jobs for references and for repeats.

    The longest prompt comes first: if it doesn't fit, no time is lost. Then those that are asked
    twice. Both they and the repeats are of all lengths and kinds.
    """
    by_size = [p for c in sorted(made, key=lambda c: c.size) for p in c.prompts]
    longest = by_size[-1]
    # Every third prompt, another turn in each conversation.
    thirds = [[p for i, p in enumerate(by_size) if (i + i // TURNS) % TURNS == k] for k in range(3)]
    twice = thirds[0][: shares.pairs]
    rest = [p for p in by_size if p is not longest and p not in twice]
    firsts = [longest, *(p for p in twice if p is not longest), *rest]
    repeated = thirds[1][: shares.repeats]
    return [Job(prompt=p, cold=True) for p in firsts], [Job(prompt=p) for p in repeated]


def pair_prompts(quiet: Sequence[Job], shares: Shares) -> frozenset[str]:
    """Return the names of the prompts that are asked a second time at once."""
    return frozenset(job.prompt.name for job in quiet[1 : shares.pairs + 1])


def twin_jobs(made: Sequence[Conversation], shares: Shares) -> list[list[Job]]:
    """Return batches of one prompt: a long answer first, it has the most choices."""
    shortest = min(made, key=lambda c: c.size).prompts
    chosen = list(reversed(shortest))[: shares.twins]
    return [[Job(prompt=p, cold=True)] * shares.width for p in chosen]


def load_jobs(
    made: Sequence[Conversation], requests: int, rng: random.Random, *, cancelled: float
) -> list[list[Job]]:
    """Return conversations to have at once, shuffled; together they are so many requests.

    A conversation's share falls with its length, so that each length has about as many tokens; each
    comes once before one comes again. Members of a family often follow one another.
    """
    smallest = min(c.size for c in made)
    found: list[list[Job]] = []
    count, turn = 0, 0
    while count < requests:
        batch = [c for c in made if turn == 0 or rng.random() < max(0.1, smallest / c.size) ** 0.5]
        rng.shuffle(batch)
        if rng.random() < 0.5:
            batch.sort(key=lambda c: c.prompts[0].family)
        for conversation in batch:
            jobs = [_job(p, rng, cancelled) for p in conversation.prompts][: requests - count]
            count += len(jobs)
            found += [jobs] if jobs else []
        turn += 1
    return found


def after_jobs(made: Sequence[Conversation], requests: int, rng: random.Random) -> list[Job]:
    """Return prompts to ask alone once more; the first round's, so that what lasts is seen."""
    prompts = [p for c in made for p in c.prompts]
    return [Job(prompt=p) for p in rng.sample(prompts, min(requests, len(prompts)))]


def _job(prompt: Prompt, rng: random.Random, cancelled: float) -> Job:
    return Job(prompt=prompt, cancel=prompt.kind is Kind.COUNT and rng.random() < cancelled)
