# SPDX-License-Identifier: Apache-2.0
"""The matrix as one web page: a table whose cells lead to what was seen, for screen and paper.

The page needs nothing but itself, and it holds no time: the same matrix gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from recipe.follow.matrix.markup import amount, anchor, code, joined, sentence, shown
from recipe.follow.matrix.runs import Run, runs_of, span
from recipe.follow.matrix.store import history
from recipe.follow.matrix.table import Cell, CellState, Matrix
from recipe.follow.matrix.text import SYMBOLS, WANTS_WORK, minor, next_command

STYLE = Path(__file__).with_suffix(".css")
# With more releases than this, a sheet of paper has no room for their names side by side.
MANY = 24
NAMES = {
    CellState.APPLIES: "applies",
    CellState.UPSTREAMED: "upstreamed",
    CellState.UPSTREAMED_CHANGED: "upstreamed, changed since",
    CellState.NOT_NEEDED: "not needed",
    CellState.NEEDS_REBASE: "needs a rebase",
    CellState.CONFLICT: "conflict",
}
MEANINGS = {
    CellState.APPLIES: "our patch goes on exactly",
    CellState.UPSTREAMED: "the release has it itself",
    CellState.UPSTREAMED_CHANGED: "the release has it no longer as it came",
    CellState.NOT_NEEDED: "nothing there to mend",
    CellState.NEEDS_REBASE: "our patch must be written anew, without conflicts",
    CellState.CONFLICT: "somebody has to decide",
}
# One of upstream's lines, as recipe.follow.footprint.place writes it.
SOURCE = re.compile(r"(?P<path>.+?):(?P<line>\d+) (?P<text>.+?)(?P<gone> is gone)?", re.DOTALL)


def as_html(found: Matrix, *, patchset: str) -> bytes:
    """patchset: the digest of the series and the overlay that were judged."""
    runs = {topic: runs_of(found.row(topic)) for topic in found.topics}
    work = [run for row in runs.values() for run in row if run.first.state in WANTS_WORK]
    title = "vllm-sm12x: topics by release"
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{STYLE.read_text(encoding="utf-8").rstrip()}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{judged(found)}</p>
<p class="muted digest">Patchset <code>{shown(patchset)}</code></p>
{summary(work)}
</header>
<main>
{table(found, runs)}
{legend(found)}
{to_do(work)}
{joined(topic_section(found, topic, row) for topic, row in runs.items())}
</main>
<footer class="muted">Written by <code>python build.py matrix --html FILE</code>.</footer>
</body>
</html>
""".encode()


def judged(found: Matrix) -> str:
    count = f"{amount(len(found.topics), 'topic')} on {amount(len(found.bases), 'release')}"
    return shown(f"{count}, {span(found.bases)}." if found.bases else f"{count}.")


def summary(work: Sequence[Run]) -> str:
    if not work:
        return "<p>Nothing needs work.</p>"
    cells = amount(sum(len(run.cells) for run in work), "cell")
    bases = {cell.base for run in work for cell in run.cells}
    where = shown(bases.pop()) if len(bases) == 1 else f"{len(bases)} releases"
    words = f"To do: {cells} on {where}"
    return f'<p><a class="jump" href="#needs_work"><strong>{words}</strong></a></p>'


def legend(found: Matrix) -> str:
    used = {cell.state for cell in found.cells}
    rows = [
        f'<li>{mark(state)}<span>{NAMES[state]} <span class="muted">{MEANINGS[state]}</span>'
        "</span></li>"
        for state in SYMBOLS
        if state in used
    ]
    return f'<ul class="legend">\n{joined(rows)}\n</ul>'


def table(found: Matrix, runs: dict[str, tuple[Run, ...]]) -> str:
    """Minor versions over their releases; what is left out for the eye is there for the ear."""
    minors = [(name, list(tags)) for name, tags in groupby(found.bases, key=minor)]
    columns = [f'<colgroup span="{len(tags)}"></colgroup>' for _, tags in minors]
    top = [
        f'<th class="first" scope="colgroup" colspan="{len(tags)}">{shown(name)}</th>'
        for name, tags in minors
    ]
    starts = {tags[0] for _, tags in minors}
    numbers = [release(tag, tag in starts) for tag in found.bases]
    rows = [
        f'<tr><th scope="row"><a href="#{anchor(topic)}">{shown(topic)}</a></th>\n'
        + joined(table_cell(run, cell, cell.base in starts) for run in row for cell in run.cells)
        + "</tr>"
        for topic, row in runs.items()
    ]
    return f"""\
<div class="scroll" id="all_topics" role="region" aria-label="Topics by release" tabindex="0">
<table{' class="many"' if len(found.bases) > MANY else ""}>
<colgroup></colgroup>{"".join(columns)}
<thead>
<tr><td></td>{"".join(top)}</tr>
<tr><td></td>{"".join(numbers)}</tr>
</thead>
<tbody>
{joined(rows)}
</tbody>
</table>
</div>"""


def release(tag: str, starts_group: bool) -> str:
    name, _, number = tag.rpartition(".")
    words = f'<span class="hidden">{shown(name)}</span>.{shown(number)}'
    return f'<th{first_class(starts_group)} scope="col">{words}</th>'


def table_cell(run: Run, cell: Cell, starts_group: bool) -> str:
    words = shown(f"{cell.topic} on {cell.base}: {NAMES[cell.state]}")
    return (
        f"<td{first_class(starts_group)}>"
        f'<a class="{cell.state}" href="#{target(run, cell)}" title="{words}" aria-label="{words}">'
        f"{SYMBOLS[cell.state]}</a></td>"
    )


def first_class(starts_group: bool) -> str:
    return ' class="first"' if starts_group else ""


def to_do(work: Sequence[Run]) -> str:
    if not work:
        return ""
    runs = joined(run_section(run, title=f"{run.first.topic}: ") for run in work)
    return f'<section>\n<h2 id="needs_work">To do{back()}</h2>\n{runs}\n</section>'


def topic_section(found: Matrix, topic: str, runs: tuple[Run, ...]) -> str:
    parts = [
        pointer(run) if run.first.state in WANTS_WORK else run_section(run, title="")
        for run in runs
    ]
    return f"""\
<section>
<h2 id="{anchor(topic)}">{shown(topic)}{back()}</h2>
<p>{shown(history(found.row(topic)))}</p>
{joined(parts)}
</section>"""


def run_section(run: Run, *, title: str) -> str:
    parts = [evidence(run.first.state, run.shared)] if run.shared else []
    if len(run.groups) > 1:
        parts += ["<dl>", *(group_row(run, group) for group in run.groups), "</dl>"]
    if run.first.state in WANTS_WORK:
        commands = (f"<li><code>{shown(next_command(cell))}</code></li>" for cell in run.cells)
        parts.append(f'<p class="next">Type:</p>\n<ul class="next">\n{joined(commands)}\n</ul>')
    place = f' id="{target(run, run.first)}"' if len(run.groups) == 1 else ""
    if run.first.patch:
        parts.insert(0, f'<p class="muted">by {code(f"patches/{run.first.patch}")}</p>')
    return f'<div class="run"{place}>\n{joined([heading(run, title), *parts])}\n</div>'


def pointer(run: Run) -> str:
    """Where a run stands in the topic's section whose evidence is told above."""
    link = f'<a class="jump" href="#{target(run, run.first)}">what to do</a>'
    return f'<div class="run">\n{heading(run, "")}\n<p>{link}</p>\n</div>'


def heading(run: Run, title: str) -> str:
    state = run.first.state
    where = shown(span(run.bases))
    return f'<h3>{mark(state)}{shown(title)}{NAMES[state]} <span class="muted">{where}</span></h3>'


def group_row(run: Run, group: tuple[Cell, ...]) -> str:
    own = evidence(group[0].state, run.own(group[0])) or "<p>nothing besides</p>"
    where = shown(span([cell.base for cell in group]))
    return f'<div id="{target(run, group[0])}"><dt>{where}</dt>\n<dd>{own}</dd></div>'


def evidence(state: CellState, seen: tuple[str, ...]) -> str:
    """Lines of upstream's are listed under their file with their numbers, the rest as it is."""
    parts: list[str] = []
    upstream = state in (CellState.UPSTREAMED, CellState.UPSTREAMED_CHANGED)
    found = [(SOURCE.fullmatch(line) if upstream else None, line) for line in seen]
    for path, rows in groupby(found, key=lambda row: row[0] and row[0]["path"]):
        if path is None:
            parts += [f"<li>{sentence(line)}</li>" for _, line in rows]
            continue
        numbered = joined(
            f'<li value="{row["line"]}"><code>{shown(row["text"])}</code>{row["gone"] or ""}</li>'
            for row, _ in rows
            if row is not None
        )
        parts.append(f"<li>{code(path)}\n<ol>\n{numbered}\n</ol></li>")
    return f"<ul>\n{joined(parts)}\n</ul>" if parts else ""


def target(run: Run, cell: Cell) -> str:
    """Where a cell's link leads: the first release of its group."""
    group = next(group for group in run.groups if cell in group)
    return anchor(f"{cell.topic}-{group[0].base}")


def mark(state: CellState) -> str:
    return f'<span class="mark {state}" aria-hidden="true">{SYMBOLS[state]}</span>'


def back() -> str:
    return ' <a class="to-table" href="#all_topics">to the table</a>'
