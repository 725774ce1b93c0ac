# SPDX-License-Identifier: Apache-2.0
"""Which published components the patched tree, on the asked architectures, would make otherwise.

Pure: it compares what CMake said of the pristine and of the patched tree, and what the published
objects hold with what a compile would give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recipe.compile.configure import Build
from recipe.gpu import arch
from recipe.gpu.arch import DEVICES, Verdict

# PTX runs too: the driver compiles it. Where that gives wrong numbers (Marlin) a topic says so.
RUNS = frozenset({Verdict.NATIVE, Verdict.FAMILY, Verdict.SAME_MAJOR, Verdict.PTX})


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a component must be compiled: what is stale about the published one."""

    component: str
    why: str


def merged(reasons: Iterable[Reason]) -> list[Reason]:
    """One reason for each component, which says all of them."""
    whys: dict[str, list[str]] = {}
    for reason in reasons:
        whys.setdefault(reason.component, []).append(reason.why)
    return [Reason(component=name, why=" and ".join(said)) for name, said in whys.items()]


def changed(pristine: Mapping[str, Build], patched: Mapping[str, Build]) -> list[Reason]:
    """Components whose compile the series changes, by name."""
    found = []
    for name in sorted({*pristine, *patched}):
        why = difference(pristine.get(name), patched.get(name))
        if why:
            found.append(Reason(component=name, why=why))
    return found


def difference(old: Build | None, new: Build | None) -> str:
    """What the series changes about one component's compile; empty if nothing."""
    if old is None or new is None:
        return "the series adds it" if old is None else "the series takes it away"
    parts = []
    before, after = ({step.source: step for step in build.steps} for build in (old, new))
    for word, names in (("adds", {*after} - {*before}), ("drops", {*before} - {*after})):
        if names:
            parts.append(f"{word} {counted(names, 'source')}")
    targets = [
        f"{', '.join(set_of(before[name].targets))} to {', '.join(set_of(after[name].targets))}"
        for name in sorted({*before} & {*after})
        if before[name].targets != after[name].targets
    ]
    if targets:
        kinds = sorted(set(targets))
        parts.append(f"compiles {len(targets)} sources for other targets ({'; '.join(kinds)})")
    flags = [
        name
        for name in sorted({*before} & {*after})
        if before[name].command != after[name].command
        and before[name].targets == after[name].targets
    ]
    if flags:
        parts.append(f"has other flags for {counted(flags, 'source')}")
    parts += other_files(old.files, new.files, {*before} ^ {*after})
    if not parts and old.link != new.link:
        parts.append("links it otherwise")
    return f"the series {', '.join(parts)}" if parts else ""


def other_files(old: Mapping[str, str], new: Mapping[str, str], sources: set[str]) -> list[str]:
    """What changes in the files that a component is read from, but for sources named already.

    A header that is found now, or found elsewhere, is another file with the same commands.
    """
    edited = [path for path in {*old} & {*new} if old[path] != new[path]]
    found, lost = {*new} - {*old} - sources, {*old} - {*new} - sources
    parts = [f"changes {counted(edited, 'file')}"] if edited else []
    parts += [f"takes in {counted(found, 'other file')}"] if found else []
    return parts + ([f"no longer takes in {counted(lost, 'file')}"] if lost else [])


def set_of(targets: tuple[str, ...]) -> tuple[str, ...]:
    return targets or ("no GPU",)


def counted(names: Iterable[str], what: str) -> str:
    """``2 sources (a.cu, b.cu)``: how many, and the first of them."""
    ordered = sorted(names)
    shown = ", ".join(name.rpartition("/")[2] for name in ordered[:2])
    more = ", ..." if len(ordered) > 2 else ""
    return f"{len(ordered)} {what}{'s' if len(ordered) != 1 else ''} ({shown}{more})"


def unserved(
    builds: Mapping[str, Build],
    published: Mapping[str, Mapping[str, Verdict]],
    asked: tuple[str, ...],
) -> list[Reason]:
    """Components whose published code an asked device can't run, and a compile's could.

    published: the verdict for each device (``12.1``) by component. One that was asked for by its
    own number with an ``a`` (12.1a) wants code of that number; for others what runs is enough.
    """
    found = []
    for name, build in sorted(builds.items()):
        if name not in published:
            continue
        for device in DEVICES:
            wanted = enough(asked, device)
            has = published[name].get(device, Verdict.NONE)
            gets = best(build, device)
            if has not in wanted | {Verdict.AT_RUN_TIME} and gets in wanted:
                why = f"the published one is {has} on {device}, a compile gives {gets} code"
                found.append(Reason(component=name, why=why))
                break
    return found


def enough(asked: tuple[str, ...], device: str) -> frozenset[Verdict]:
    """What code is good enough for a device, or nothing if it wasn't asked for."""
    plain = [part.removesuffix("+PTX") for part in asked]
    if f"{device}a" in plain:
        return frozenset({Verdict.NATIVE})
    return RUNS if any(arch.meant(part, device) for part in plain) else frozenset()


def best(build: Build, device: str) -> Verdict:
    """What a compile gives a device: the best of its sources', as one of them is enough to tell
    that upstream's build has code for it."""
    verdicts = [arch.serves(one, device) for one in map(listed, build.targets) if one]
    return min(verdicts, key=arch.rank, default=Verdict.NONE)


def listed(target: str) -> str:
    """``12.0f`` of nvcc's ``sm_120f``; empty for PTX (``compute_80``)."""
    if not target.startswith("sm_"):
        return ""
    number = target.removeprefix("sm_")
    digits = number.rstrip("af")
    return f"{digits[:-1]}.{digits[-1]}{number[len(digits) :]}"
