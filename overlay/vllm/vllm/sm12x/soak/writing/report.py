# SPDX-License-Identifier: Apache-2.0
"""The result as a text and as a JSON document."""

from dataclasses import asdict, dataclass
from typing import Any

from ..asking.phases import Plan
from ..asking.records import Record
from ..judging.examine import Finding
from ..judging.judge import Judgement, Verdict
from ..judging.level import Compare
from ..server.discover import Server
from .figures import Figures

SCHEMA = 1
SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Result:
    """All of a run that gets written down."""

    server: Server
    plan: Plan
    judgement: Judgement
    figures: tuple[Figures, ...]
    records: tuple[Record, ...]
    requests: int
    """With those that found out what the server is."""
    seconds: float
    interrupted: bool
    hung: bool


def text(result: Result) -> str:
    """Return the report for a terminal."""
    judgement = result.judgement
    lines = [headline(result), ""]
    lines += [f"  {alarm}" for alarm in judgement.alarms]
    lines += ["", *_shown(judgement.findings)] if judgement.findings else []
    lines += ["", "How it was compared", *(f"  {line}" for line in compared(result))]
    lines += ["", "Latency and throughput", *_table(result.figures)]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def headline(result: Result) -> str:
    """Return one sentence: the verdict, over what, and whether it is all."""
    judgement = result.judgement
    what = {
        Verdict.WRONG: "Answers go wrong",
        Verdict.RIGHT: "No wrong answer",
        Verdict.UNJUDGED: "Nothing can be said",
    }[judgement.verdict]
    ended = " It was interrupted." if result.interrupted else ""
    if result.hung:
        ended += " The server stopped answering, so the rest was left out."
    return (
        f"{what}: {result.requests} requests in {result.seconds:.0f} s to {result.server.model}, "
        f"{judgement.compared} answers under load or after it compared.{ended}"
    )


def compared(result: Result) -> list[str]:
    """Return how exactly answers were compared, and what that leaves out."""
    judgement, server = result.judgement, result.server
    level = judgement.level
    lines = [f"under load {level.compare.value}, alone {level.alone.value}: {level.why}"]
    if level.margin is not None:
        lines.append(
            f"a choice is near below {level.margin:.2f} nats: right answers moved by "
            f"{level.drift:.3f} at most"
        )
    wrong = [r for r in judgement.rates if r.name in ("code not found", "numbers out of order")]
    for rate in wrong:
        if rate.of:
            lines.append(
                f"{rate.name}: {rate.bad} of {rate.of} in phase {rate.phase.value}, "
                f"alone {rate.quiet_bad} of {rate.quiet_of}"
            )
    lines.append(
        f"context {server.context} tokens ({server.context_from}), the longest prompt "
        f"{max((f.longest_prompt for f in result.figures), default=0) or 'not counted'}; "
        f"{server.endpoint.value}, with "
        f"{', '.join(sorted(f.value for f in server.features)) or 'no parameters'}"
    )
    if level.compare is Compare.MEASURES and not judgement.checked:
        lines.append(
            "The model gets neither codes nor numbers right when alone, and answers differ anyway: "
            "only foreign codes, failures and gross garbling could be seen. For a model that "
            "thinks give --answer-tokens 2000, or switch thinking off by --extra-body."
        )
    return lines


def document(result: Result) -> dict[str, Any]:
    """Return the JSON document; times in seconds, log probabilities in nats."""
    judgement = result.judgement
    server = {**asdict(result.server), "features": sorted(f.value for f in result.server.features)}
    return {
        "schema": SCHEMA,
        "verdict": judgement.verdict.name.lower(),
        "headline": headline(result),
        "alarms": list(judgement.alarms),
        "server": server,
        "plan": asdict(result.plan),
        "requests": result.requests,
        "seconds": round(result.seconds, 3),
        "interrupted": result.interrupted,
        "hung": result.hung,
        "compared": judgement.compared,
        "checked": [kind.value for kind in judgement.checked],
        "level": asdict(judgement.level),
        "rates": [{**asdict(rate), "alarm": rate.alarm} for rate in judgement.rates],
        "findings": [_finding(found) for found in judgement.findings],
        "figures": [asdict(phase) for phase in result.figures],
        "answers": [_record(record) for record in result.records],
    }


def _finding(found: Finding) -> dict[str, Any]:
    record = found.record
    return {
        "sign": found.sign.value,
        "why": found.why,
        "request": record.number,
        "prompt": record.prompt.name,
        "phase": record.phase.value,
        "at_s": round(record.at_s, 3),
        "in_flight": record.in_flight,
        "place": found.place,
        "expected": found.expected,
        "got": found.got,
    }


def _record(record: Record) -> dict[str, Any]:
    answer = record.answer
    return {
        "request": record.number,
        "phase": record.phase.value,
        "round": record.round,
        "prompt": record.prompt.name,
        "kind": record.prompt.kind.value,
        "depth": record.prompt.depth,
        "at_s": round(record.at_s, 3),
        "in_flight": record.in_flight,
        "outcome": answer.outcome.value,
        "detail": answer.detail,
        "first_s": None if answer.first_s is None else round(answer.first_s, 4),
        "total_s": round(answer.total_s, 4),
        "prompt_tokens": answer.prompt_tokens,
        "generated": answer.generated,
        "text": answer.text,
    }


def _shown(findings: tuple[Finding, ...]) -> list[str]:
    lines: list[str] = []
    for found in findings[:SHOWN]:
        record = found.record
        lines += [
            f"  request {record.number}, {record.prompt.name}, {record.phase.value}, "
            f"{record.in_flight} at once, after {record.at_s:.0f} s: {found.sign.value}, "
            f"{found.why}",
            f"    alone: {found.expected[:100]!r}",
            f"    here:  {found.got[:100]!r}",
        ]
    if len(findings) > SHOWN:
        lines.append(f"  and {len(findings) - SHOWN} more (--json and --html have all)")
    return lines


def _table(figures: tuple[Figures, ...]) -> list[str]:
    lines = ["  phase    requests  first text p50 / p95 / max   tok/s of one p50   tok/s together"]
    for row in figures:
        lines.append(
            f"  {row.phase.value:8} {row.requests:8}  {number(row.first_p50_s, 3):>10} / "
            f"{number(row.first_p95_s, 3)} / {number(row.first_max_s, 3):8} "
            f"{number(row.stream_p50, 1):>15} {number(row.total_per_s, 1):>16}"
        )
    return lines


def number(value: float | None, digits: int) -> str:
    """Return a number for a person, a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"
