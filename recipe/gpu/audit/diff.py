# SPDX-License-Identifier: Apache-2.0
"""How the GPU code of a wheel differs from that of another one, component by component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from recipe.gpu.arch import Verdict, rank
from recipe.gpu.audit.findings import tally
from recipe.gpu.code import ComponentCode, order
from recipe.gpu.fatbin import Kind


class Presence(StrEnum):
    BOTH = "both"
    ONLY_HERE = "only-here"
    ONLY_THERE = "only-there"


@dataclass(frozen=True, kw_only=True)
class FamilyChange:
    """A family's kernels by verdict, there and here; kernels without any code aren't counted."""

    family: str
    there: Mapping[Verdict, int]
    here: Mapping[Verdict, int]


@dataclass(frozen=True, kw_only=True)
class ComponentChange:
    """sass, ptx: how many images more (or fewer) this wheel has for each target.

    verdicts: by device, (there, here) where they differ. families: by device.
    """

    name: str
    presence: Presence
    sass: Mapping[str, int]
    ptx: Mapping[str, int]
    verdicts: Mapping[str, tuple[Verdict, Verdict]]
    families: Mapping[str, tuple[FamilyChange, ...]]

    @property
    def same(self) -> bool:
        changed = any((self.sass, self.ptx, self.verdicts, self.families))
        return self.presence == Presence.BOTH and not changed


def compare(
    here: tuple[ComponentCode, ...], there: tuple[ComponentCode, ...], capabilities: tuple[str, ...]
) -> tuple[ComponentChange, ...]:
    ours = {one.name: one for one in here}
    theirs = {one.name: one for one in there}
    return tuple(
        change(name, ours.get(name), theirs.get(name), capabilities)
        for name in sorted(ours.keys() | theirs.keys())
    )


def change(
    name: str,
    here: ComponentCode | None,
    there: ComponentCode | None,
    capabilities: tuple[str, ...],
) -> ComponentChange:
    if here and there:
        presence = Presence.BOTH
    else:
        presence = Presence.ONLY_HERE if here else Presence.ONLY_THERE
    nothing = ComponentCode(name=name, file="", units=())
    new, old = here or nothing, there or nothing
    verdicts = {c: (old.verdict(c), new.verdict(c)) for c in capabilities if here and there}
    families = {c: family_changes(tally(new, c), tally(old, c)) for c in capabilities}
    return ComponentChange(
        name=name,
        presence=presence,
        sass=images(new, old, Kind.SASS),
        ptx=images(new, old, Kind.PTX),
        verdicts={c: pair for c, pair in verdicts.items() if pair[0] != pair[1]},
        families={c: found for c, found in families.items() if found},
    )


def images(new: ComponentCode, old: ComponentCode, kind: Kind) -> dict[str, int]:
    more = new.targets(kind)
    more.subtract(old.targets(kind))
    return {target: more[target] for target in sorted(more, key=order) if more[target]}


def family_changes(
    new: Mapping[str, Counter[Verdict]], old: Mapping[str, Counter[Verdict]]
) -> tuple[FamilyChange, ...]:
    found = (
        FamilyChange(family=name, there=usable(old.get(name)), here=usable(new.get(name)))
        for name in sorted(new.keys() | old.keys())
    )
    return tuple(one for one in found if one.there != one.here)


def usable(counts: Counter[Verdict] | None) -> dict[Verdict, int]:
    counts = counts or Counter()
    return {one: counts[one] for one in sorted(counts, key=rank) if one != Verdict.NONE}
