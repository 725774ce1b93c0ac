# SPDX-License-Identifier: Apache-2.0
"""Hold the GPU code of a wheel against the devices that were asked for.

A device is served when each component has code it can run, or has none for it by design, and no
family of kernels that upstream has for it is left out or would come out wrong. A wheel of a pinned
release must have that release's components, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from recipe.bases.releases import Base
from recipe.gpu import arch
from recipe.gpu import expected as expected_code
from recipe.gpu.arch import Verdict
from recipe.gpu.audit.lacks import absent, lacking, left_out
from recipe.gpu.code import ComponentCode, judge, order
from recipe.gpu.fatbin import Kind

MACHINE_CODE = frozenset({Verdict.NATIVE, Verdict.FAMILY, Verdict.SAME_MAJOR})
NOT_NATIVE = frozenset({Verdict.FAMILY, Verdict.SAME_MAJOR, Verdict.PTX})


class State(StrEnum):
    """What a device gets of a family of kernels, where that isn't code made for it."""

    MISSING = "missing"  # there is code for other devices only
    PTX = "ptx"  # some of them, or all, are compiled by the driver at load
    WRONG = "wrong"  # the same, and what comes out computes something else


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A family that a device doesn't get as machine code, or not all of it.

    kernels: how many are in that state. ready: how many it gets as machine code. targets: what
    those in that state are compiled for. fails: why the device counts as not served, empty if it
    doesn't matter.
    """

    family: str
    state: State
    kernels: int
    ready: int
    targets: tuple[str, ...]
    fails: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One component on one device. units: how many translation units have each verdict."""

    verdict: Verdict
    why: str
    fails: str
    units: Mapping[Verdict, int]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, kw_only=True)
class Component:
    code: ComponentCode
    devices: Mapping[str, Judged]


@dataclass(frozen=True, kw_only=True)
class Device:
    """reasons: why the device isn't served, empty if it is.

    not_native: components that run there without having code for this very device.
    """

    capability: str
    reasons: tuple[str, ...]
    not_native: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """absent: components that the pinned release has and the wheel hasn't."""

    components: tuple[Component, ...]
    devices: tuple[Device, ...]
    absent: tuple[str, ...]

    @property
    def served(self) -> bool:
        return not any(device.reasons for device in self.devices)


def devices_of(asked: Iterable[str]) -> tuple[str, ...]:
    """The devices an architecture list means: ``12.0f`` both SM12x chips, ``9.0a`` 9.0."""
    found: dict[str, None] = {}
    for part in (one.removesuffix("+PTX") for one in asked):
        family = [one for one in arch.DEVICES if part.endswith("f") and arch.meant(part, one)]
        found.update(dict.fromkeys(family or [part.rstrip("af")]))
    return tuple(found)


def audit(
    code: tuple[ComponentCode, ...], capabilities: tuple[str, ...], base: Base | None = None
) -> Audit:
    """base: the pinned release that the wheel says it is of."""
    kernels = {c: [tally(one, c) for one in code] for c in capabilities}
    components = tuple(
        Component(
            code=one,
            devices={c: judged(one, c, kernels[c][i], served(kernels[c])) for c in capabilities},
        )
        for i, one in enumerate(code)
    )
    return Audit(
        components=components,
        devices=tuple(device(components, c, base) for c in capabilities),
        absent=absent(code, base) if base else (),
    )


def device(components: tuple[Component, ...], capability: str, base: Base | None) -> Device:
    judged = {one.code.name: one.devices[capability].verdict for one in components}
    lacks = lacking([one.code for one in components], capability, base) if base else []
    return Device(
        capability=capability,
        reasons=(*reasons(components, capability), *lacks),
        not_native=tuple(name for name, verdict in judged.items() if verdict in NOT_NATIVE),
    )


def tally(code: ComponentCode, capability: str) -> dict[str, Counter[Verdict]]:
    """How many kernels of each family a device gets in which way."""
    found: dict[str, Counter[Verdict]] = defaultdict(Counter)
    for unit in code.units:
        verdict, image = judge(unit, capability)
        for name in {name for one in unit for name in one.kernels}:
            # Some kernels are left out for some targets: none here counts as the most elsewhere.
            have = image.kernels.get(name, 0) if image else 0
            if have:
                found[name][verdict] += have
            else:
                found[name][Verdict.NONE] += max(one.kernels.get(name, 0) for one in unit)
    return found


def served(kernels: Iterable[Mapping[str, Counter[Verdict]]]) -> frozenset[str]:
    """The families of which some component has machine code for the device."""
    return frozenset(
        family for one in kernels for family, found in one.items() if MACHINE_CODE & found.keys()
    )


def judged(
    code: ComponentCode,
    capability: str,
    kernels: Mapping[str, Counter[Verdict]],
    elsewhere: frozenset[str],
) -> Judged:
    """elsewhere: families that some component of the wheel serves."""
    major = arch.major(capability)
    verdict = code.verdict(capability)
    why, fails = arch.rule(verdict, capability, code.targets(Kind.SASS)).partition(";")[0], ""
    if verdict == Verdict.NONE:
        if code.run_time:
            why = f"its kernels are compiled at run time, for {' and '.join(code.run_time)} only"
        else:
            why = expected_code.by_design(code.component, major)
            fails = "" if why else f"{code.name} has no code it can run"
            why = why or arch.RULES[verdict]
    found = [
        gap(family, counts, code, capability, family in elsewhere)
        for family, counts in sorted(kernels.items())
        if Verdict.PTX in counts or set(counts) == {Verdict.NONE}
    ]
    found += [
        part_missing(family, counts, targets, number)
        for family, counts in sorted(kernels.items())
        if major == expected_code.SM12X and MACHINE_CODE & counts.keys()
        for targets, number in [left_out(family, code, capability)]
        if number
    ]
    units = Counter(judge(unit, capability)[0] for unit in code.units)
    return Judged(
        verdict=verdict,
        why=why,
        fails=fails,
        units={one: units[one] for one in sorted(units, key=arch.rank)},
        gaps=tuple(found),
    )


def gap(
    family: str, counts: Counter[Verdict], code: ComponentCode, capability: str, elsewhere: bool
) -> Gap:
    major = arch.major(capability)
    sm12x = major == expected_code.SM12X
    if Verdict.PTX in counts:
        targets = compiled_for(family, code, (Kind.PTX,))
        if sm12x and expected_code.is_one_of(family, expected_code.WRONG_FROM_PTX):
            state, fails = State.WRONG, f"{family} comes from PTX and computes wrong results"
        else:
            state, fails = State.PTX, ""
        number = counts[Verdict.PTX]
    else:
        targets, state, fails = compiled_for(family, code, tuple(Kind)), State.MISSING, ""
        number = counts[Verdict.NONE]
        required = sm12x and expected_code.is_one_of(family, expected_code.REQUIRED)
        sibling = any(arch.major(target) == major for target in targets)
        wanted = not expected_code.by_design(code.component, major) and not elsewhere
        if wanted and (required or sibling):
            fails = f"{family} is compiled for {' '.join(map(sm, targets))} only"
    return Gap(
        family=family,
        state=state,
        kernels=number,
        ready=sum(counts[one] for one in MACHINE_CODE),
        targets=targets,
        fails=fails,
    )


def part_missing(
    family: str, counts: Counter[Verdict], targets: tuple[str, ...], number: int
) -> Gap:
    """A family of which some translation units were left out."""
    return Gap(
        family=family,
        state=State.MISSING,
        kernels=number,
        ready=sum(counts[one] for one in MACHINE_CODE),
        targets=targets,
        fails=f"{family} is in part compiled for {' '.join(map(sm, targets))} only",
    )


def compiled_for(family: str, code: ComponentCode, kinds: tuple[Kind, ...]) -> tuple[str, ...]:
    found = {
        image.target
        for unit in code.units
        for image in unit
        if image.kind in kinds and family in image.kernels
    }
    return tuple(sorted(found, key=order))


def reasons(components: Iterable[Component], capability: str) -> tuple[str, ...]:
    """Why a device isn't served, each reason once."""
    found: dict[str, None] = {}
    runs = False
    for component in components:
        one = component.devices[capability]
        runs = runs or one.verdict not in (Verdict.NONE, Verdict.NO_GPU_CODE)
        if one.fails:
            found[one.fails] = None
        for each in one.gaps:
            if each.fails:
                found[f"{component.code.name}: {each.fails}"] = None
    if not runs and not found:
        found["no component has code it can run"] = None
    return tuple(found)


def sm(target: str) -> str:
    """``12.0f`` as NVIDIA's tools write it: ``sm_120f``."""
    return "sm_" + target.replace(".", "")
