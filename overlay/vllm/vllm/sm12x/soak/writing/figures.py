# SPDX-License-Identifier: Apache-2.0
"""Latency and throughput of each phase."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..asking.records import Phase, Record
from ..server.answers import Outcome


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one phase; seconds and tokens (pieces of text where the server doesn't count)."""

    phase: Phase
    requests: int
    outcomes: dict[str, int]
    first_p50_s: float | None
    first_p95_s: float | None
    first_max_s: float | None
    stream_p50: float | None
    """Tokens a second of one answer, after its first."""
    stream_p05: float | None
    total_per_s: float | None
    """Tokens a second of all answers together."""
    prompt_tokens: int
    longest_prompt: int
    generated: int


def figures(records: Sequence[Record]) -> tuple[Figures, ...]:
    """Return the figures of each phase that has records."""
    phases = [(phase, [r for r in records if r.phase is phase]) for phase in Phase]
    return tuple(_of(phase, some) for phase, some in phases if some)


def _of(phase: Phase, records: list[Record]) -> Figures:
    firsts = [r.answer.first_s for r in records if r.answer.first_s is not None]
    streams = [speed for r in records if (speed := _speed(r)) is not None]
    generated = sum(r.answer.generated for r in records)
    prompts = [r.answer.prompt_tokens or 0 for r in records]
    busy = _busy((r.at_s, r.at_s + r.answer.total_s) for r in records)
    return Figures(
        phase=phase,
        requests=len(records),
        outcomes={
            o.value: n for o in Outcome if (n := sum(r.answer.outcome is o for r in records))
        },
        first_p50_s=quantile(firsts, 0.5),
        first_p95_s=quantile(firsts, 0.95),
        first_max_s=max(firsts, default=None),
        stream_p50=quantile(streams, 0.5),
        stream_p05=quantile(streams, 0.05),
        total_per_s=generated / busy if busy > 0 else None,
        prompt_tokens=sum(prompts),
        longest_prompt=max(prompts, default=0),
        generated=generated,
    )


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that at least this share of the values don't exceed."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _speed(record: Record) -> float | None:
    answer = record.answer
    if answer.first_s is None or answer.pieces < 2 or answer.total_s <= answer.first_s:
        return None
    return (answer.generated - 1) / (answer.total_s - answer.first_s)


def _busy(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds in which any request was under way."""
    total, end = 0.0, -math.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
