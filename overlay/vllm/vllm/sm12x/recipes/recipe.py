# SPDX-License-Identifier: Apache-2.0
"""A recipe as its head says: for which model, devices and releases, and what it needs around it.

A line of the head is `#: FIELD: VALUE`, for some fields with a reason behind ` # `:

    model, devices (`2 x 12.1`), nodes, bases (`>=0.24,<0.30`), memory   once each
    measured    by whom and where; what others report of other settings is `reported`
    export      NAME=VALUE # why        for every machine
    unset       NAME # why              what a machine or an image may have set
    with        RANGE --option value    added to the command on these releases alone
"""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
_ONCE = ("model", "devices", "nodes", "bases", "memory", "measured")
_FIELD = re.compile(r"#: (\w+): (.+)")
_BOUND = re.compile(r"(>=|<)(\d+(?:\.\d+)*)")


class BadRecipe(ValueError):
    """A head that can't be read; the text says which line and why."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Releases from one to before another: `>=0.24,<0.30`."""

    text: str
    low: tuple[int, ...]
    high: tuple[int, ...] | None

    def has(self, release: tuple[int, ...]) -> bool:
        """Return whether a release is in it."""
        return self.low <= release and (self.high is None or release < self.high)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable to set (`value`) or to take out (None), with the reason."""

    name: str
    value: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One file. `options` has what is added to the command on some releases."""

    path: Path
    model: str
    count: int
    capability: tuple[int, int]
    nodes: int
    bases: Range
    memory: str
    measured: str
    reported: tuple[str, ...]
    variables: tuple[Variable, ...]
    options: tuple[tuple[Range, tuple[str, ...]], ...]
    ray: bool

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def words(self, release: tuple[int, ...]) -> list[str]:
        """Return the words after `vllm serve --config FILE` on a release."""
        return [word for bases, words in self.options if bases.has(release) for word in words]


def read_range(text: str) -> Range:
    """Read a range of releases. Raises BadRecipe."""
    bounds = [_BOUND.fullmatch(part) for part in text.split(",")]
    known = {found[1]: tuple(map(int, found[2].split("."))) for found in bounds if found}
    if not all(bounds) or len(known) != len(bounds):
        raise BadRecipe(f"{text!r} is no range of releases; write it as >=0.24,<0.30")
    return Range(text=text, low=known.get(">=", ()), high=known.get("<"))


def read(path: Path) -> Recipe:
    """Read a recipe's head. Raises BadRecipe where it isn't one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = [_FIELD.fullmatch(line) for line in lines if line.startswith("#:")]
    if not all(fields):
        raise BadRecipe(f"{path.name}: a line of the head isn't `#: FIELD: VALUE`")
    known: dict[str, list[str]] = {}
    for found in fields:
        if found:
            known.setdefault(found[1], []).append(found[2])
    unknown = set(known) - {*_ONCE, "reported", "export", "unset", "with"}
    if unknown or any(len(known.get(name, ())) != 1 for name in _ONCE):
        raise BadRecipe(f"{path.name}: each of {', '.join(_ONCE)} once, and no {sorted(unknown)}")
    devices = re.fullmatch(r"(\d+) x (\d+)\.(\d)", known["devices"][0])
    if devices is None:
        raise BadRecipe(f"{path.name}: devices are written as 2 x 12.1")
    return Recipe(
        path=path,
        model=known["model"][0].partition(" # ")[0],
        count=int(devices[1]),
        capability=(int(devices[2]), int(devices[3])),
        nodes=int(known["nodes"][0]),
        bases=read_range(known["bases"][0]),
        memory=known["memory"][0],
        measured=known["measured"][0],
        reported=tuple(known.get("reported", ())),
        variables=tuple(
            _variable(text, kind) for kind in ("export", "unset") for text in known.get(kind, ())
        ),
        options=tuple(
            (read_range(text.split()[0]), tuple(text.split()[1:])) for text in known.get("with", ())
        ),
        ray="distributed-executor-backend: ray" in lines,
    )


def _variable(text: str, kind: str) -> Variable:
    said, _, why = text.partition(" # ")
    name, _, value = said.partition("=")
    return Variable(name=name, value=value if kind == "export" else None, why=why)


def every(folder: Path = FOLDER) -> tuple[Recipe, ...]:
    """Return all recipes, by name."""
    return tuple(read(path) for path in sorted(folder.glob("*.yaml")))
