# SPDX-License-Identifier: Apache-2.0
"""The result as one HTML page: no scripts, nothing that is fetched, readable without colours."""

from collections.abc import Iterable, Sequence
from html import escape

from ..asking.records import Phase, Record
from ..judging.examine import Finding
from ..judging.judge import Rate, Verdict
from ..server.answers import Outcome
from .figures import Figures
from .report import Result, compared, headline, number

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1d2126; --muted: #56606b; --line: #d5dae0;
  --right: #0b4f8a; --wrong: #a5201a; --mark: #f7d9d6; --code: #f3f5f7; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --text: #e3e7ec; --muted: #a2abb6;
  --line: #343b44; --right: #8fc4ff; --wrong: #ff8f80; --mark: #55211d; --code: #1e2329; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 64rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.1875rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
h1, h2, h3, p, li, td { overflow-wrap: anywhere; }
.wrong { color: var(--wrong); } .muted { color: var(--muted); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; }
pre { margin: 0; padding: .5rem; background: var(--code); white-space: pre-wrap;
  overflow-wrap: anywhere; font: .8125rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
mark { background: var(--mark); color: inherit; }
.pair { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--muted); }
"""
WIDTH, ROW, LEFT = 960, 26, 64
MOST_FINDINGS = 200
NUMBER = ' class="n"'


def page(result: Result) -> str:
    """Return the page."""
    judgement = result.judgement
    bad = judgement.verdict is Verdict.WRONG
    title = f"Soak of {result.server.model}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="{"wrong" if bad else "right"}"><strong>{escape(headline(result))}</strong></p>',
        _list(judgement.alarms),
        f'<p class="muted">{escape(result.server.url)}</p>',
        "<h2>Answers over time</h2>",
        timeline(result.records, judgement.findings),
        "<h2>How it was compared</h2>",
        _list(compared(result)),
        "<h2>Latency and throughput</h2>",
        _figures(result.figures),
        "<h2>More frequent under load?</h2>",
        "<p>p is the probability of as many or more if load made no difference. An alarm is a p "
        "below the limit, or three values far beyond all that were given alone.</p>",
        _rates(judgement.rates),
        f"<h2>Wrong answers ({len(judgement.findings)})</h2>",
        *(_finding(found) for found in judgement.findings[:MOST_FINDINGS]),
    ]
    if len(judgement.findings) > MOST_FINDINGS:
        parts.append(f"<p>The first {MOST_FINDINGS} are shown; --json has all.</p>")
    if not judgement.findings:
        parts.append("<p>None.</p>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def timeline(records: Sequence[Record], findings: Sequence[Finding]) -> str:
    """Return a picture: a row a phase, a bar an answer as long as it took, a cross a wrong one."""
    if not records:
        return "<p>None.</p>"
    phases = [phase for phase in Phase if any(r.phase is phase for r in records)]
    end = max(r.at_s + r.answer.total_s for r in records) or 1.0
    scale = (WIDTH - LEFT - 8) / end
    wrong = {found.record.number for found in findings}
    marks: list[str] = []
    for row, phase in enumerate(phases):
        top = row * ROW
        marks.append(f'<text x="0" y="{top + 17}">{phase.value}</text>')
        for record in records:
            if record.phase is not phase:
                continue
            x = LEFT + record.at_s * scale
            marks.append(_mark(record, x, top, record.answer.total_s * scale, wrong))
    height = len(phases) * ROW + 20
    marks.append(f'<text x="{LEFT}" y="{height - 4}">0 s</text>')
    marks.append(f'<text x="{WIDTH - 8}" y="{height - 4}" text-anchor="end">{end:.0f} s</text>')
    label = f"{len(records)} answers, {len(wrong)} of them wrong, in {end:.0f} seconds"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">'
        + "".join(marks)
        + '</svg><p class="muted">A bar is an answer, as long as it took; a red cross is a wrong '
        "one, a thin bar one that was cancelled.</p>"
    )


def _mark(record: Record, x: float, top: int, length: float, wrong: set[int]) -> str:
    said = f"request {record.number}, {record.prompt.name}, {record.answer.outcome.value}"
    thin = record.answer.outcome is Outcome.CANCELLED
    if record.number in wrong:
        y = top + 12
        return (
            f'<path d="M{x - 4:.1f} {y - 5}l8 10m0 -10l-8 10" stroke="var(--wrong)" '
            f'stroke-width="2" fill="none"><title>{escape(said)}: wrong</title></path>'
        )
    return (
        f'<rect x="{x:.1f}" y="{top + (11 if thin else 7)}" width="{max(1.5, length):.1f}" '
        f'height="{2 if thin else 10}" fill="var(--right)" fill-opacity="0.4">'
        f"<title>{escape(said)}</title></rect>"
    )


def _finding(found: Finding) -> str:
    record = found.record
    common = 0
    for mine, its in zip(found.expected, found.got, strict=False):
        if mine != its:
            break
        common += 1
    return (
        f"<h3>Request {record.number}: {escape(found.sign.value)}</h3>"
        f"<p>{escape(found.why)} <span class='muted'>({escape(record.prompt.name)}, phase "
        f"{record.phase.value}, {record.in_flight} at once, after {record.at_s:.1f} s)</span></p>"
        f'<div class="pair"><div>Alone{_text(found.expected, common)}</div>'
        f"<div>Here{_text(found.got, common)}</div></div>"
    )


def _text(text: str, common: int) -> str:
    rest = f"<mark>{escape(text[common:])}</mark>" if text[common:] else ""
    return f"<pre>{escape(text[:common])}{rest}</pre>"


def _figures(rows: Iterable[Figures]) -> str:
    head = ("phase", "requests", "first text p50, s", "p95, s", "longest, s", "tok/s of one, p50",
            "p5", "tok/s together", "longest prompt, tokens")  # fmt: skip
    return _table(
        head,
        [
            (
                row.phase.value, str(row.requests), number(row.first_p50_s, 3),
                number(row.first_p95_s, 3), number(row.first_max_s, 3), number(row.stream_p50, 1),
                number(row.stream_p05, 1), number(row.total_per_s, 1), str(row.longest_prompt),
            )
            for row in rows
        ],
        words=1,
    )  # fmt: skip


def _rates(rates: Iterable[Rate]) -> str:
    rows = [
        (
            rate.name, rate.kind.value if rate.kind else "", rate.phase.value,
            f"{rate.bad} of {rate.of}", f"{rate.quiet_bad} of {rate.quiet_of}", str(rate.far),
            f"{rate.p:.2g}", "alarm" if rate.alarm else "",
        )
        for rate in rates
        if rate.of
    ]  # fmt: skip
    return _table(("what", "kind", "phase", "here", "alone", "far", "p", ""), rows, words=3)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{NUMBER if place >= words else ''}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    # Can be scrolled by keyboard, too.
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _list(items: Iterable[str]) -> str:
    found = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{found}</ul>" if found else ""
