# SPDX-License-Identifier: Apache-2.0
"""What becomes of each component: reuse, rebuild, or the published one although it is stale.

A patch says which components' compile it changes; where none does and every published one serves
the asked devices, nothing needs to be measured. Else upstream's CMake is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from recipe.compile.native.choice import Choice, Kind
from recipe.compile.stale import Reason, enough, merged
from recipe.compile.toolchain.environment import NativeEnv
from recipe.gpu.arch import DEVICES, Verdict
from recipe.gpu.code import ComponentCode
from recipe.gpu.expected import by_design
from recipe.wheel.components import Action, Component

Verdicts = Mapping[str, Mapping[str, Verdict]]
# Code that is compiled where it runs serves, and a component without any needs none.
SERVED = frozenset({Verdict.AT_RUN_TIME, Verdict.NO_GPU_CODE})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the components. reasons: what is stale, None if that isn't known.

    kept: by component, why a stale one stays as published. unfetched: the source that a stale one
    is compiled from if it can be fetched. sure: whether there is nothing left to ask. env: where
    CMake was asked.
    """

    reasons: Sequence[Reason] | None = None
    kept: Mapping[str, str] = field(default_factory=dict)
    unfetched: Mapping[str, str] = field(default_factory=dict)
    sure: bool = True
    env: NativeEnv | None = None


@dataclass(frozen=True, kw_only=True)
class Settled:
    """measured: whether CMake was asked, or there was nothing to ask it. unfetched: components
    that are compiled only if a source can be fetched. kept: why a stale one stays as published.
    env: what compiles, where CMake was asked. lost: the Pythons for which a compiled one will be
    gone, by component."""

    components: tuple[Component, ...]
    measured: bool
    unfetched: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    env: NativeEnv | None = None
    lost: Mapping[str, str] = field(default_factory=dict)

    @property
    def rebuild(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.components if c.action == Action.REBUILD)

    @property
    def certain(self) -> tuple[str, ...]:
        """What is compiled whatever can be fetched."""
        return tuple(name for name in self.rebuild if name not in self.unfetched)


def verdicts_of(codes: tuple[ComponentCode, ...]) -> dict[str, dict[str, Verdict]]:
    """What each SM12x device gets from each published component.

    Not of one that compiles its sources on the device: another compile of the same ones gives that.
    """
    compiled = (code for code in codes if not code.run_time)
    return {one.component: {device: one.verdict(device) for device in DEVICES} for one in compiled}


def candidates(
    declared: tuple[Component, ...], published: Verdicts, asked: tuple[str, ...]
) -> tuple[str, ...]:
    """Components that may have to be compiled: what a patch names, and what serves no device."""
    changed = {c.name for c in declared if c.action == Action.STALE}
    unserved = {
        name
        for name, verdicts in published.items()
        for device in DEVICES
        if enough(asked, device) and verdicts[device] not in enough(asked, device) | SERVED
        if not by_design(name, device.partition(".")[0])
    }
    return tuple(sorted(changed | unserved))


def possible(
    declared: tuple[Component, ...],
    published: Verdicts,
    asked: tuple[str, ...],
    inner: Sequence[Reason],
) -> list[Reason]:
    """What may be stale, by what is declared and published and by inner sources; CMake may say
    otherwise."""
    changed = [
        Reason(component=one.name, why=one.why.partition(";")[0])
        for one in declared
        if one.action == Action.STALE
    ]
    known = {reason.component for reason in (*changed, *inner)}
    unserved = "its published code serves no asked device"
    left = (name for name in candidates(declared, published, asked) if name not in known)
    return merged([*changed, *inner, *(Reason(component=one, why=unserved) for one in left)])


def settle(choice: Choice, declared: tuple[Component, ...], found: Evidence) -> Settled:
    """Every component with its action."""
    reasons, kept, hoped = found.reasons, found.kept, found.unfetched
    whys = {reason.component: reason.why for reason in reasons or ()}
    known = {component.name: component for component in declared}
    for name in {*whys, *choice.names} - {*known}:
        known[name] = Component(name=name, files=(), action=Action.REUSE, why="")
    components = []
    for name, component in sorted(known.items()):
        match choice.kind:
            case Kind.ALL:
                why = "--native all compiles everything"
                components.append(replace(component, action=Action.REBUILD, why=why))
            case Kind.NAMED if name in choice.names:
                why = f"--native names it{'; ' + whys[name] if name in whys else ''}"
                components.append(replace(component, action=Action.REBUILD, why=why))
            case Kind.AUTO if reasons is not None:
                one = measured(component, whys.get(name), kept.get(name), hoped.get(name))
                components.append(one)
            case _:
                components.append(component)
    hopeful = (c.name for c in components if c.action == Action.REBUILD and c.name in hoped)
    return Settled(
        components=tuple(components),
        measured=reasons is not None and found.sure,
        unfetched=tuple(hopeful),
        kept=kept,
        env=found.env,
    )


def measured(
    component: Component, why: str | None, kept: str | None, unfetched: str | None
) -> Component:
    """A component as CMake's answers have it."""
    if why is None:
        same = "published binary; the patched tree compiles the same"
        if component.action == Action.REUSE:
            return component
        return replace(component, action=Action.REUSE, why=same)
    if kept is not None:
        lacks = f"{why}; this wheel does not contain that: {kept}"
        return replace(component, action=Action.STALE, why=lacks)
    if unfetched is not None:
        why = f"{why}; if {unfetched} can be fetched, else the published one stays"
    return replace(component, action=Action.REBUILD, why=why)
