# SPDX-License-Identifier: Apache-2.0
"""What --native asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from recipe.ground.errors import UsageError


class Kind(StrEnum):
    """What --native asks for."""

    AUTO = "auto"  # compile what is stale
    NONE = "none"  # reuse every published binary
    ALL = "all"  # upstream's whole build
    NAMED = "named"  # compile these components


@dataclass(frozen=True, kw_only=True)
class Choice:
    """--native: its kind, and the components if it names some."""

    kind: Kind
    names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As it is typed."""
        return ",".join(self.names) or self.kind


def parse_choice(text: str, known: Iterable[str]) -> Choice:
    """``auto``, ``none``, ``all`` or names with commas; UsageError for a name nobody knows."""
    if text in (Kind.AUTO, Kind.NONE, Kind.ALL):
        return Choice(kind=Kind(text))
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    possible = sorted(known)
    unknown = [name for name in names if name not in possible]
    if unknown or not names:
        raise UsageError(
            f"--native {text!r}: no such component: {', '.join(unknown) or '(nothing named)'}",
            means=f"There are {', '.join(possible)}.",
            next="python build.py build --native auto ...   # or none, all",
        )
    return Choice(kind=Kind.NAMED, names=names)
