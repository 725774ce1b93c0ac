# SPDX-License-Identifier: Apache-2.0
"""An audit as a JSON document and as a text for a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recipe.gpu.arch import DEVICES, Verdict
from recipe.gpu.audit.diff import ComponentChange, FamilyChange, Presence
from recipe.gpu.audit.findings import Audit, Component, Device, Gap, Judged, State, sm
from recipe.gpu.fatbin import Kind

SCHEMA = 1
WORDS = {
    State.WRONG: "wrong results: compiled by the driver from PTX for",
    State.PTX: "compiled by the driver from PTX for",
    State.MISSING: "missing: only for",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The wheel that was audited; base: the pinned release it is of, if it is of one.

    against: the name of the wheel it was compared with.
    """

    wheel: str
    sha256: str
    project: str
    version: str
    base: str | None
    asked: tuple[str, ...]
    against: str | None


def as_json(subject: Subject, found: Audit, changes: tuple[ComponentChange, ...]) -> dict[str, Any]:
    """The document of ``audit --json``."""
    return {
        "schema": SCHEMA,
        "wheel": subject.wheel,
        "sha256": subject.sha256,
        "project": subject.project,
        "version": subject.version,
        "base": subject.base,
        "arch": list(subject.asked),
        "verdict": verdict(found.served),
        "devices": {
            one.capability: {
                "verdict": verdict(not one.reasons),
                "reasons": list(one.reasons),
                "not_native": list(one.not_native),
            }
            for one in found.devices
        },
        "absent": list(found.absent),
        "components": [component_json(one) for one in found.components],
        "against": subject.against
        and {
            "wheel": subject.against,
            "components": [change_json(one) for one in changes],
        },
    }


def verdict(served: bool) -> str:
    return "served" if served else "not-served"


def component_json(one: Component) -> dict[str, Any]:
    sass, ptx = one.code.targets(Kind.SASS), one.code.targets(Kind.PTX)
    return {
        "name": one.code.name,
        "file": one.code.file,
        "sass": [sm(target) for target in sass],
        "ptx": [sm(target) for target in ptx],
        "images": {
            "sass": {sm(target): number for target, number in sass.items()},
            "ptx": {sm(target): number for target, number in ptx.items()},
        },
        "run_time": [sm(target) for target in one.code.run_time],
        "verdict": {device: judged.verdict for device, judged in one.devices.items()},
        "devices": {device: judged_json(judged) for device, judged in one.devices.items()},
    }


def judged_json(judged: Judged) -> dict[str, Any]:
    return {
        "verdict": judged.verdict,
        "why": judged.why,
        "served": not judged.fails and not any(gap.fails for gap in judged.gaps),
        "units": dict(judged.units),
        "gaps": [
            {
                "family": gap.family,
                "state": gap.state,
                "kernels": gap.kernels,
                "ready": gap.ready,
                "targets": [sm(target) for target in gap.targets],
                "fails": bool(gap.fails),
            }
            for gap in judged.gaps
        ],
    }


def change_json(one: ComponentChange) -> dict[str, Any]:
    return {
        "name": one.name,
        "presence": one.presence,
        "same": one.same,
        "sass": {sm(target): number for target, number in one.sass.items()},
        "ptx": {sm(target): number for target, number in one.ptx.items()},
        "verdicts": {c: {"there": pair[0], "here": pair[1]} for c, pair in one.verdicts.items()},
        "families": {
            c: [
                {"family": f.family, "there": dict(f.there), "here": dict(f.here)} for f in families
            ]
            for c, families in one.families.items()
        },
    }


def as_text(subject: Subject, found: Audit, changes: tuple[ComponentChange, ...]) -> str:
    lines = [f"{subject.wheel}: {subject.project} {subject.version}"]
    for one in found.components:
        lines += component_text(one)
    if found.absent:
        lines += ["", f"not in this wheel: {' '.join(found.absent)}"]
    if subject.against:
        lines += ["", f"against {subject.against}", *diff_text(changes)]
    lines.append("")
    for device in found.devices:
        lines += device_text(device, subject.asked)
    return "\n".join(lines)


def component_text(one: Component) -> list[str]:
    lines = ["", f"{one.code.name}  ({one.code.file})"]
    for kind in Kind:
        targets = one.code.targets(kind)
        if targets:
            images = "  ".join(f"{sm(target)} {number}" for target, number in targets.items())
            lines.append(f"  {kind.upper():5} {images}")
    if one.code.run_time:
        lines.append(f"  compiled at run time for {' '.join(sm(t) for t in one.code.run_time)}")
    for device, judged in one.devices.items():
        lines.append(f"  {device:5} {judged.verdict}: {judged.why}{units_text(judged)}")
    alike: dict[tuple[Gap, ...], list[str]] = defaultdict(list)
    for device, judged in one.devices.items():
        if judged.verdict != Verdict.NONE:  # else it is said already, of all that is in it
            alike[judged.gaps].append(device)
    for gaps, devices in alike.items():
        if gaps:
            lines += [f"  on {' and '.join(devices)}", *gap_lines(gaps)]
    return lines


def units_text(judged: Judged) -> str:
    """How its translation units fare, where not all fare alike."""
    if len(judged.units) < 2:
        return ""
    return " (files: " + ", ".join(f"{n} {v}" for v, n in judged.units.items()) + ")"


def gap_lines(gaps: Iterable[Gap]) -> list[str]:
    """Families in the same state for the same targets on one line, what matters most first."""
    groups: dict[tuple[State, tuple[str, ...]], list[Gap]] = defaultdict(list)
    for gap in gaps:
        groups[gap.state, gap.targets].append(gap)
    worst = sorted(groups, key=lambda key: (list(WORDS).index(key[0]), key[1]))
    lines = []
    for state, targets in worst:
        lines.append(f"    {WORDS[state]} {' '.join(sm(target) for target in targets)}")
        for gap in groups[state, targets]:
            ready = f" (and {gap.ready} as machine code)" if gap.ready else ""
            mark = "  <-- not served" if gap.fails else ""
            lines.append(f"      {gap.kernels:5} {gap.family}{ready}{mark}")
    return lines


def diff_text(changes: tuple[ComponentChange, ...]) -> list[str]:
    lines = []
    for one in changes:
        if one.same:
            lines.append(f"  {one.name}: the same targets and kernels")
            continue
        lines.append(f"  {one.name}: {PRESENCES[one.presence]}")
        for kind, more in (("SASS", one.sass), ("PTX", one.ptx)):
            if more:
                images = "  ".join(f"{sm(target)} {number:+}" for target, number in more.items())
                lines.append(f"    {kind:5} {images}")
        for device, (there, here) in one.verdicts.items():
            lines.append(f"    {device:5} {there} -> {here}")
        for device, families in one.families.items():
            lines.append(f"    kernels on {device}")
            lines += [f"      {family_text(family)}" for family in families]
    return lines


PRESENCES = {
    Presence.BOTH: "differs",
    Presence.ONLY_HERE: "only in this wheel",
    Presence.ONLY_THERE: "only in the other wheel",
}


def family_text(change: FamilyChange) -> str:
    return f"{change.family}: {counts(change.there)} -> {counts(change.here)}"


def counts(found: Mapping[Any, int]) -> str:
    return ", ".join(f"{number} {one}" for one, number in found.items()) or "nothing"


def device_text(device: Device, asked: tuple[str, ...]) -> list[str]:
    name = DEVICES.get(device.capability)
    head = f"{device.capability}{f' ({name})' if name else ''}"
    lines = [f"{head}: {'not served' if device.reasons else 'served'}"]
    lines += [f"  {reason}" for reason in device.reasons]
    asked_itself = f"{device.capability}a"
    if device.not_native and asked_itself in (one.removesuffix("+PTX") for one in asked):
        names = " ".join(device.not_native)
        lines.append(
            f"  {asked_itself} was asked for, and what runs there is enough here; without code "
            f"for {sm(device.capability)} itself: {names}"
        )
    return lines
