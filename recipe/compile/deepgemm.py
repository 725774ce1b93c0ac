# SPDX-License-Identifier: Apache-2.0
"""Which DeepGEMM a wheel carries, what that means on 12.x, and whether vLLM can use another one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from recipe.bases.releases import Base
from recipe.compile.deepgemm_uses import WRAPPER, Use, uses_in
from recipe.compile.inner.given import Given
from recipe.ground import run
from recipe.ground.errors import ConfigError
from recipe.objects.git import Store

# What pybind11 calls an argument that the binding gives no name.
UNNAMED = re.compile(r"arg\d+$")
FACTS = Path(__file__).with_suffix(".toml")
COMPONENT = "_deep_gemm_C"
WRITE_FACTS = "PYTHON benchmarks/deepgemm_functions.py"


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a function; type "" where it isn't known. name may begin with * or **."""

    name: str
    type: str
    optional: bool


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a DeepGEMM commit has. sm120: its kernel headers for SM12x."""

    pin: str
    sm120: tuple[str, ...]
    functions: Mapping[str, tuple[Argument, ...]]


@dataclass(frozen=True, kw_only=True)
class DeepGemm:
    """The DeepGEMM of one wheel.

    carried: the commit that is in it. pinned: the one that a compile takes. sm12x of each: whether
    it has kernels for 12.x, None if that isn't known. problems: why vLLM can't use the pinned one;
    None where it can't be told. at_hand: whether its source is there without asking anybody.
    if_fetched: whether it is compiled if that can be fetched. kept: why it isn't compiled.
    """

    carried: str
    pinned: str
    carried_sm12x: bool | None
    pinned_sm12x: bool | None
    problems: tuple[str, ...] | None
    at_hand: bool
    if_fetched: bool = False
    kept: str = ""


@cache
def load_facts(path: Path = FACTS) -> Mapping[str, Known]:
    """By commit, what published wheels say of the DeepGEMM in them."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["deepgemm"]
    return {row["pin"]: known(row) for row in rows}


def known(row: Mapping[str, Any]) -> Known:
    functions = {
        name: tuple(argument(one) for one in arguments)
        for name, arguments in row["functions"].items()
    }
    return Known(pin=row["pin"], sm120=tuple(row["sm120"]), functions=functions)


def argument(text: str) -> Argument:
    said = text.removesuffix(" =")
    name, _, type_ = said.partition(": ")
    return Argument(name=name, type=type_, optional=said != text)


def uses_of(store: Store, commit: str) -> tuple[Use, ...]:
    """What the vLLM tree at `commit` takes from DeepGEMM."""
    listing = store.git("grep", "-l", "-z", "-F", "deep_gemm", commit, "--", "vllm/*.py").decode()
    paths = {row.partition(":")[2] for row in listing.split("\0") if row} | {WRAPPER}
    texts = read_all(store, commit, sorted(p for p in paths if "/third_party/" not in p))
    return uses_in(texts, texts.__getitem__)


def read_all(store: Store, commit: str, paths: list[str]) -> dict[str, str]:
    """The text of many files: one process, where a process each would take a second."""
    asked = "".join(f"{commit}:{path}\n" for path in paths).encode()
    rest = store.git("cat-file", "--batch", stdin=asked)
    found = {}
    with run.understood("git cat-file"):
        for path in paths:
            head, _, rest = rest.partition(b"\n")
            size = int(head.split()[-1])
            if not 0 <= size < len(rest):
                raise ValueError(f"{size} bytes of {len(rest)}")
            found[path], rest = rest[:size].decode(), rest[size + 1 :]
    return found


def check(uses: Iterable[Use], new: Known, old: Known | None) -> tuple[str, ...]:
    """Why a tree that was written for `old` can't use `new`; empty if it can.

    A name that `old` hasn't got either is no loss: vLLM looks for it and does without.
    """
    problems = (problem(use, new, old) for use in uses)
    return tuple(dict.fromkeys(one for one in problems if one))


def problem(use: Use, new: Known, old: Known | None) -> str:
    said = " or ".join(use.names)
    name = next((one for one in use.names if one in new.functions), None)
    if name is None:
        missed = old is None or any(one in old.functions for one in use.names)
        return f"{use.where} takes {said}, which it hasn't got" if missed else ""
    if use.positional is None:
        return ""
    why = mismatch(use, new.functions[name])
    before = old.functions.get(name) if old is not None else None
    if why and before is not None and mismatch(use, before):
        return ""  # vLLM's own DeepGEMM doesn't take this call either
    why = why or (changed(use, new.functions[name], before) if before is not None else "")
    return f"{use.where} calls {name}: {why}" if why else ""


def mismatch(use: Use, arguments: tuple[Argument, ...]) -> str:
    """Why a call doesn't fit a function's arguments; '' if it does."""
    if any(one.name.startswith("*") for one in arguments):
        return ""
    assert use.positional is not None
    names = [one.name for one in arguments]
    if use.positional > len(names):
        return f"{use.positional} arguments by position, it takes {len(names)}"
    if strange := [one for one in use.keywords if one not in names]:
        return f"it takes no {strange[0]}"
    if twice := [one for one in use.keywords if one in names[: use.positional]]:
        return f"{twice[0]} is given by position, too"
    needed = [one.name for one in arguments[use.positional :] if not one.optional]
    lacking = [one for one in needed if one not in use.keywords]
    return f"it needs {lacking[0]}" if lacking and not use.open else ""


def changed(use: Use, new: tuple[Argument, ...], old: tuple[Argument, ...]) -> str:
    """Whether what is passed by position or name means something else than before."""
    assert use.positional is not None
    for here, there in zip(new[: use.positional], old, strict=False):
        if here.name != there.name and not (UNNAMED.match(here.name) or UNNAMED.match(there.name)):
            return f"{here.name} stands where {there.name} was"
    before = {one.name: one.type for one in old}
    passed = {one.name for one in new[: use.positional]} | set(use.keywords)
    for one in new:
        was = before.get(one.name, "")
        if one.name in passed and one.type and was and one.type != was:
            return f"{one.name} is {one.type}, it was {was}"
    return ""


def of_base(store: Store, commit: str, base: Base, given: Given | None = None) -> DeepGemm:
    """What the vLLM tree at `commit` has of DeepGEMM; it is read only where the pin is lifted."""
    if base.deepgemm is None:
        return none_of_it()
    pin = base.pin_of("deepgemm")
    uses = uses_of(store, commit) if pin.pin != base.deepgemm.pin else ()
    named = given is not None and given.has(pin)
    at_hand = named or store.commit_of(pin.pin) is not None
    return describe(base, uses, load_facts(), at_hand=at_hand)


def describe(
    base: Base, uses: Iterable[Use], facts: Mapping[str, Known], *, at_hand: bool = False
) -> DeepGemm:
    """The DeepGEMM of a base's published wheel, and whether vLLM can use the pinned one."""
    if base.deepgemm is None:
        return none_of_it()
    pin = base.pin_of("deepgemm").pin
    own = base.deepgemm.pin
    new = facts.get(pin)
    if pin == own:
        problems: tuple[str, ...] | None = ()
    else:
        problems = None if new is None else check(uses, new, facts.get(own))
    return DeepGemm(
        carried=own,
        pinned=pin,
        carried_sm12x=sm12x(facts.get(own)),
        pinned_sm12x=sm12x(new),
        problems=problems,
        at_hand=at_hand,
    )


def none_of_it() -> DeepGemm:
    """Of a release whose CMake fetches none: up to v0.19 it was installed by hand."""
    return DeepGemm(
        carried="", pinned="", carried_sm12x=None, pinned_sm12x=None, problems=(), at_hand=False
    )


def sm12x(known: Known | None) -> bool | None:
    return None if known is None else bool(known.sm120)


def settled(
    deepgemm: DeepGemm,
    rebuilt: Collection[str],
    unfetched: Collection[str] = (),
    kept: str = "",
) -> DeepGemm:
    """The same for a wheel some of whose components are compiled here, and some if their sources
    can be fetched. kept: why this one isn't, although it is stale."""
    if COMPONENT in unfetched:
        return replace(deepgemm, if_fetched=True)
    if COMPONENT not in rebuilt:
        return replace(deepgemm, kept=kept)
    return replace(deepgemm, carried=deepgemm.pinned, carried_sm12x=deepgemm.pinned_sm12x)


def check_usable(deepgemm: DeepGemm) -> None:
    """Before a compile of the pinned one: ConfigError where vLLM couldn't call what comes out."""
    if deepgemm.problems is None:
        raise ConfigError(
            f"what DeepGEMM {deepgemm.pinned[:9]} takes isn't known",
            means="This release's vLLM was written for another commit.",
            next=f"{WRITE_FACTS} TAG...   # releases whose wheels carry it",
        )
    if deepgemm.problems:
        raise ConfigError(
            f"vLLM can't use DeepGEMM {deepgemm.pinned[:9]}: {'; '.join(deepgemm.problems[:3])}",
            means="Calls would fail while models are served.",
            next="lift the pin to another commit, or leave lifted.deepgemm out of bases.toml",
        )


def meaning(deepgemm: DeepGemm) -> str:
    """What a user of a 12.x GPU gets from it, in a sentence."""
    if not deepgemm.carried:
        return "no DeepGEMM is in this release's wheel, nor does its CMake fetch one"
    if deepgemm.carried_sm12x is None:
        return f"what it has for 12.x isn't known; {WRITE_FACTS} reads it from a wheel"
    if deepgemm.carried_sm12x:
        return "has kernels for 12.x, compiled when they are first used"
    text = "has no kernels for 12.x: there, what has a Triton fallback runs, and nothing else"
    if deepgemm.carried != deepgemm.pinned and deepgemm.pinned_sm12x:
        text += f"; compiled from source ({COMPONENT}) it is {deepgemm.pinned[:9]}, which has them"
    return text


def as_json(deepgemm: DeepGemm) -> dict[str, Any]:
    return {
        "carried": deepgemm.carried,
        "pinned": deepgemm.pinned,
        "sm12x": deepgemm.carried_sm12x,
        "pinned_sm12x": deepgemm.pinned_sm12x,
        "means": meaning(deepgemm),
        "compatible": None if deepgemm.problems is None else not deepgemm.problems,
        "problems": list(deepgemm.problems or ()),
        "source_at_hand": deepgemm.at_hand,
        "compiled_if_fetched": deepgemm.if_fetched,
    }


def as_lines(deepgemm: DeepGemm) -> list[str]:
    lines = [f"deepgemm   {deepgemm.carried[:9] or 'none'} {meaning(deepgemm)}"]
    if deepgemm.if_fetched:
        lines.append(
            f"  if its source can be fetched, {deepgemm.pinned[:9]} is compiled; "
            "else the published one is kept"
        )
    elif deepgemm.kept:
        lines.append(f"  the published one is kept: {deepgemm.kept}")
    elif deepgemm.carried != deepgemm.pinned and not deepgemm.at_hand:
        lines.append(
            "  its source isn't at hand (--sources deepgemm=PATH): the published one is kept"
        )
    pinned = deepgemm.pinned[:9]
    if deepgemm.problems is None:
        lines.append(f"  what {pinned} takes isn't known: {WRITE_FACTS}")
    return [*lines, *(f"  {pinned} can't be used: {one}" for one in deepgemm.problems or ())]
