# SPDX-License-Identifier: Apache-2.0
"""Draw the packages of the recipe from their imports: docs/architecture.svg.

python tools/architecture.py

A package stands above all that it imports. An arrow that follows from others is left out: who
imports the wheel's package may import what that one stands on. Imports that only a type checker
reads count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"

WIDTH, MARGIN, GAP, LANE = 860, 20, 28, 48
LINE, PADDING = 17, 12
FONT = "ui-sans-serif, system-ui, sans-serif"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of the recipe.

    about: its docstring's first line. inside: its own packages. needs: other packages of the recipe
    that it imports.
    """

    name: str
    about: str
    inside: tuple[str, ...]
    needs: frozenset[str]


def packages(root: Path = ROOT) -> tuple[Package, ...]:
    """Every package below recipe/, by name."""
    recipe = root / "recipe"
    folders = sorted(path.parent for path in recipe.glob("*/__init__.py"))
    names = {folder.name for folder in folders}
    return tuple(
        Package(
            name=folder.name,
            about=about(folder / "__init__.py"),
            inside=tuple(sorted(path.parent.name for path in folder.glob("*/__init__.py"))),
            needs=frozenset(names & set(imported(folder)) - {folder.name}),
        )
        for folder in folders
    )


def about(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0] if text else ""


def imported(folder: Path) -> Iterator[str]:
    """The packages of the recipe that a folder's modules import, itself too."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [f"{module}.{alias.name}" for alias in node.names]
                case ast.Import():
                    modules = [alias.name for alias in node.names]
                case _:
                    continue
            for module in modules:
                first, _, rest = module.partition(".")
                if first == "recipe" and rest:
                    yield rest.partition(".")[0]


def floors(found: tuple[Package, ...]) -> tuple[tuple[Package, ...], ...]:
    """The packages by height, the lowest first; ValueError where they import each other."""
    left = {package.name: package for package in found}
    height: dict[str, int] = {}
    while left:
        ready = [name for name, one in left.items() if not one.needs & set(left)]
        if not ready:
            raise ValueError(f"these import each other: {', '.join(sorted(left))}")
        for name in ready:
            needs = left[name].needs
            height[name] = 1 + max((height[below] for below in needs), default=-1)
        for name in ready:
            del left[name]
    top = max(height.values(), default=-1)
    return tuple(tuple(p for p in found if height[p.name] == floor) for floor in range(top + 1))


def arrows(found: tuple[Package, ...]) -> tuple[tuple[str, str], ...]:
    """(from, to) of the imports that don't follow from others."""
    needs = {package.name: package.needs for package in found}

    def below(name: str) -> set[str]:
        reached = set(needs[name])
        for one in needs[name]:
            reached |= below(one)
        return reached

    return tuple(
        (name, to)
        for name in sorted(needs)
        for to in sorted(needs[name])
        if not any(to in below(other) for other in needs[name] - {to})
    )


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a package is drawn."""

    package: Package
    x: int
    y: int
    width: int
    height: int

    @property
    def middle(self) -> int:
        return self.x + self.width // 2


def lines_of(package: Package, letters: int) -> list[str]:
    """What stands in a box below the name, in lines of at most so many letters."""
    lines = wrapped(package.about, letters)
    if package.inside:
        lines += wrapped("with " + ", ".join(f"{name}/" for name in package.inside), letters)
    return lines


def wrapped(text: str, letters: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def placed(found: tuple[Package, ...]) -> list[Box]:
    """A box for each package, those that import the most on top."""
    rows, past = floors(found), long_arrows(found)
    boxes, y = [], MARGIN
    for floor in reversed(range(len(rows))):
        # Those that an arrow from far above ends at stand where its lane is, at the left.
        row = sorted(rows[floor], key=lambda one: one.name not in {end for _, end, _ in past})
        left = MARGIN + LANE * sum(floor in between for _, _, between in past)
        width = (WIDTH - MARGIN - left - GAP * (len(row) - 1)) // len(row)
        tallest = 1 + max(len(lines_of(package, letters(width))) for package in row)
        height = 2 * PADDING + LINE * tallest
        for place, package in enumerate(row):
            x = left + place * (width + GAP)
            boxes.append(Box(package=package, x=x, y=y, width=width, height=height))
        y += height + GAP
    return boxes


def long_arrows(found: tuple[Package, ...]) -> list[tuple[str, str, range]]:
    """(from, to) of the arrows that pass floors, and which floors those are."""
    height = {one.name: number for number, row in enumerate(floors(found)) for one in row}
    spans = [(start, to, range(height[to] + 1, height[start])) for start, to in arrows(found)]
    return [span for span in spans if span[2]]


def letters(width: int) -> int:
    return (width - 2 * PADDING) * 10 // 68


def drawn(found: tuple[Package, ...]) -> str:
    """The picture as SVG."""
    boxes = placed(found)
    at = {box.package.name: box for box in boxes}
    bottom = max(box.y + box.height for box in boxes) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" '
        f'font-family="{FONT}" font-size="13">',
        "<title>The packages of recipe/; a package imports only what stands below it</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{bottom}" fill="#ffffff"/>',
    ]
    lanes = {(start, end): n for n, (start, end, _) in enumerate(long_arrows(found))}
    parts += [arrow(at[a], at[b], lanes.get((a, b))) for a, b in arrows(found)]
    for box in boxes:
        parts += box_drawn(box)
    return "\n".join([*parts, "</svg>", ""])


def arrow(start: Box, end: Box, lane: int | None) -> str:
    """From the lower edge of one box to the upper edge of another, straight down."""
    if lane is None:
        x = min(start, end, key=lambda box: box.width).middle
    else:
        x = MARGIN + LANE * lane + LANE // 2
    return (
        f'<path d="M{x} {start.y + start.height}V{end.y}" stroke="#57606a" '
        'fill="none" marker-end="url(#tip)"/>'
    )


def box_drawn(box: Box) -> list[str]:
    x, y = box.x + PADDING, box.y + PADDING + LINE - 4
    parts = [
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="6" '
        'fill="#f6f8fa" stroke="#57606a"/>',
        f'<text x="{x}" y="{y}" font-weight="bold" fill="#1f2328">{box.package.name}/</text>',
    ]
    for number, line in enumerate(lines_of(box.package, letters(box.width)), start=1):
        parts.append(f'<text x="{x}" y="{y + number * LINE}" fill="#1f2328">{escape(line)}</text>')
    return parts


def main() -> None:
    PICTURE.write_text(drawn(packages()), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
