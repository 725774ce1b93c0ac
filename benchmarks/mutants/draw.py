# SPDX-License-Identifier: Apache-2.0
"""Mutants of a module: named ones, and cosmic-ray's less those that can't change what it does.

Not tried: what stands in an annotation, which nothing evaluates here, and `==` for `is` (or the
reverse), which differ for no value that this code compares.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SAME = {frozenset({"Is", "Eq"}), frozenset({"IsNot", "NotEq"})}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A changed text of a module. module: its path in the package; line: the first that changed."""

    module: str
    operator: str
    line: int
    text: str
    before: str
    after: str

    @property
    def job(self) -> str:
        """Names the mutant for as long as the module's text stays the same."""
        return hashlib.sha256(f"{self.module}\n{self.text}".encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Named:
    """A fault that a person thought of: `before` stands once in the module and becomes `after`."""

    name: str
    module: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place where an operator of cosmic-ray applies; its occurrence is counted by operator."""

    operator: str
    occurrence: int
    start: tuple[int, int]


def sites(code: str) -> list[Site]:
    """Every place of a text that is worth a mutant, in a fixed order."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    skipped = annotated(code)
    nodes = list(ast_nodes(get_ast(code)))
    found = []
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments() or same(name):
            continue
        operator = kind()
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            if not any(begin <= start < end for begin, end in skipped):
                found.append(Site(operator=name, occurrence=occurrence, start=start))
    return found


def same(operator: str) -> bool:
    """Whether it swaps comparisons that come to the same here."""
    return frozenset(operator.split("_")[-2:]) in SAME


def annotated(code: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end, as (line, column)."""
    found = []
    for node in ast.walk(ast.parse(code)):
        for field in ("annotation", "returns"):
            part = getattr(node, field, None)
            if isinstance(part, ast.expr):
                begin = part.lineno, part.col_offset
                found.append((begin, (part.end_lineno or 0, part.end_col_offset or 0)))
    return found


def sampled(module: str, code: str, *, most: int, seed: int) -> tuple[list[Mutant], int]:
    """Up to `most` mutants drawn by the seed, and the number of places there are to draw from."""
    places = sites(code)
    chosen = list(places)
    random.Random(f"{seed} {module}").shuffle(chosen)
    made = (applied(module, code, place) for place in chosen)
    return list(itertools.islice(filter(None, made), most)), len(places)


def applied(module: str, code: str, site: Site) -> Mutant | None:
    """The mutant of a place; None where that is no Python, as with the `*` of a signature."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = mutate_code(code, get_operator(site.operator)(), site.occurrence)
    try:
        if text is None or ast.dump(ast.parse(text)) == ast.dump(ast.parse(code)):
            return None
    except SyntaxError:
        return None
    return mutant(module, code, text, site.operator.removeprefix("core/"))


def named(module: str, code: str, faults: Sequence[Named]) -> Iterator[Mutant]:
    """The named faults of this module; ValueError where its text no longer has the place."""
    for fault in faults:
        if fault.module == module:
            if code.count(fault.before) != 1:
                raise ValueError(f"{module} has no such place, or several: {fault.before!r}")
            text = code.replace(fault.before, fault.after)
            yield mutant(module, code, text, f"named: {fault.name}")


def mutant(module: str, code: str, text: str, operator: str) -> Mutant:
    before, after = code.splitlines(), text.splitlines()
    pairs = zip(before, after, strict=False)
    line = next((i for i, (one, other) in enumerate(pairs) if one != other), len(before) - 1)
    tail = len(after) - len(before)
    end = next(
        (i for i in range(len(before) - 1, line - 1, -1) if before[i] != after[i + tail]), line
    )
    return Mutant(
        module=module,
        operator=operator,
        line=line + 1,
        text=text,
        before="\n".join(part.strip() for part in before[line : end + 1]),
        after="\n".join(part.strip() for part in after[line : end + 1 + tail]),
    )


def statement(code: str, line: int) -> range:
    """The lines of the innermost statement that a line is in; of a compound one, its header."""
    best = range(line, line + 1)
    found = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or line)
    ]
    if found:
        inner = max(found, key=lambda node: node.lineno)
        end = inner.end_lineno or line
        body = getattr(inner, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
            end = max(line, body[0].lineno - 1)
        best = range(inner.lineno, end + 1)
    return best


def inside_function(code: str, line: int) -> bool:
    """Whether a line runs when a function is called, and not at import."""
    return any(
        node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def modules(package: Path, rooms: Sequence[str]) -> list[str]:
    """The modules of some rooms, by path in the package, less those that only have a docstring."""
    found = []
    for room in rooms:
        for path in sorted((package / room).rglob("*.py")):
            if any(
                not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
                for node in ast.parse(path.read_text(encoding="utf-8")).body
            ):
                found.append(path.relative_to(package).as_posix())
    return found
