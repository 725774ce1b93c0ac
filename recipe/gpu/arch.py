# SPDX-License-Identifier: Apache-2.0
"""What an asked architecture list becomes in upstream's CMake, and what each device gets from it.

The rules of CUDA: code for sm_120 runs on 12.1 (same major, higher minor), sm_120f runs on both
(family), sm_120a on 12.0 alone, and PTX is compiled by the driver at load. The resolution follows
upstream's function ``cuda_archs_loose_intersection`` (cmake/utils.cmake); the tests run that very
function of every pinned base beside ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from packaging.version import Version

from recipe.ground.errors import ConfigError, Mistyped, UsageError

KNOWN = tuple(
    f"{number}{suffix}"
    for number, suffixes in {
        **dict.fromkeys(("7.0", "7.2", "7.5", "8.0", "8.6", "8.7", "8.9"), ("",)),
        "9.0": ("", "a"),
        **dict.fromkeys(("10.0", "10.1", "10.3", "10.7", "11.0", "12.0", "12.1"), ("", "a", "f")),
    }.items()
    for suffix in suffixes
)
# How nvcc, PyTorch, CMake and people write one: with the toolkit's version behind it, or without
# the dot.
SPELLINGS = re.compile(
    r"(?:sm|compute|lto|arch|cuda)?[_-]?(?P<major>\d{1,2})\.?(?P<minor>\d)(?P<suffix>[af]?)"
    r"(?:-real|-virtual)?(?P<ptx>\+ptx)?(?:\([\d.]*\))?"
)
# From this release on upstream matches equal numbers before it looks at families.
EXACT_FIRST = Version("0.27")
# From this one on 12.0 and 12.0a in one request are kept both where the toolkit has 12.0.
BOTH_KEPT = Version("0.33")
# From this one on no kernel asks for sm_120 alone.
TRAP_GONE = Version("0.22")
# What the lists of most SM12x kernels name on CUDA 13.
FAMILY = "12.0f"
# The overlay's file that puts 12.1 back into the list, where it is asked for by its suffix.
RESTORED = "sm12x_archs.cmake"
# Each list of kernels says by itself which PTX is made of it.
DROPPED = "; +PTX is dropped: upstream's CMake makes PTX where a kernel's own list names it"
DEVICES = {"12.0": "RTX PRO 6000, RTX 5090", "12.1": "DGX Spark GB10"}


class Verdict(StrEnum):
    """What a device gets."""

    NATIVE = "native"
    FAMILY = "family"
    SAME_MAJOR = "same-major"
    PTX = "ptx"
    NONE = "none"
    # What an object may be that has no code of its own; a plan never says these.
    AT_RUN_TIME = "at-run-time"
    NO_GPU_CODE = "no-gpu-code"


@dataclass(frozen=True, kw_only=True)
class Device:
    """The verdict for one device (its compute capability) and the rule behind it."""

    capability: str
    verdict: Verdict
    why: str


@dataclass(frozen=True, kw_only=True)
class ArchPlan:
    """asked: TORCH_CUDA_ARCH_LIST; compiled: what upstream's CMake keeps of it."""

    asked: tuple[str, ...]
    compiled: tuple[str, ...]
    devices: tuple[Device, ...]


def read_list(text: str) -> tuple[str, ...]:
    """``12.0;12.1`` (or with blanks or commas) as a list; UsageError for an unknown one."""
    asked = tuple(dict.fromkeys(part for part in re.split(r"[;,\s]+", text) if part))
    unknown = [part for part in asked if part.removesuffix("+PTX") not in KNOWN]
    meant = [dotted(part) for part in asked]
    if unknown and all(meant):
        raise Mistyped(
            f"--arch {text!r}: architectures are written as in TORCH_CUDA_ARCH_LIST",
            typed=text,
            meant=";".join(dict.fromkeys(meant)),
            means=", ".join(f"{typed} is {name}" for typed, name in zip(asked, meant, strict=True))
            + " there.",
            next="python build.py --arch '12.0;12.1'   # RTX PRO 6000 and 5090; DGX Spark",
        )
    if unknown or not asked:
        raise UsageError(
            f"--arch {text!r}: no such architecture: {', '.join(unknown) or '(nothing named)'}",
            means=f"Known: {' '.join(KNOWN)}. A +PTX after one means nothing to upstream's CMake.",
            next="python build.py --arch '12.0;12.1'   # RTX PRO 6000 and 5090; DGX Spark",
        )
    return asked


def dotted(part: str) -> str:
    """``sm_121a``, ``compute_121``, ``120`` or ``12.1(2.0)`` as this list names it; "" if none."""
    found = SPELLINGS.fullmatch(part.lower())
    if not found:
        return ""
    name = f"{found['major']}.{found['minor']}{found['suffix']}"
    plus = "+PTX" if found["ptx"] else ""
    return name + plus if name in KNOWN else ""


def parse(text: str) -> tuple[str, ...]:
    """The same for a build, which is for SM12x; UsageError for a list without one."""
    asked = read_list(text)
    if not any(part.startswith("12.") for part in asked):
        raise UsageError(
            f"--arch {text!r} names no SM12x device",
            means="This overlay is for 12.0 and 12.1; upstream's wheel serves the others.",
            next=f"python build.py --arch '{text};12.0;12.1'",
        )
    return asked


def supported(cmake: str, cuda: str) -> tuple[str, ...]:
    """CUDA_SUPPORTED_ARCHS of a CMakeLists.txt for a toolkit version such as ``13.0``."""
    block = re.compile(
        r"(?:VERSION_GREATER_EQUAL\s+([\d.]+)\s*\)|\belse\s*\(\s*\))"
        r"(?:(?!\belse|\bendif)[\s\S])*?"
        r'\bset\s*\(\s*CUDA_SUPPORTED_ARCHS\s+"([\d.;]+)"'
    )
    for least, archs in block.findall(cmake):
        known = tuple(archs.split(";"))
        numbers = (*known, *([least] if least else []))
        if not all(re.fullmatch(r"\d{1,3}(\.\d{1,3})*", number) for number in numbers):
            break
        if not least or Version(cuda) >= Version(least):
            return known
    raise ConfigError(
        "CMakeLists.txt sets CUDA_SUPPORTED_ARCHS in a way this recipe doesn't know",
        next="update recipe/gpu/arch.py for this base",
    )


def plan(asked: tuple[str, ...], cmake: str, cuda: str, version: Version) -> ArchPlan:
    """Resolve `asked` as that release's CMake does and give each SM12x device its verdict.

    UsageError for a list that would compile into what fails: before anything is compiled.
    """
    # Upstream reads the list back from torch's flags: 12.1+PTX arrives there as 12.1.
    plain = tuple(dict.fromkeys(part.removesuffix("+PTX") for part in asked))
    known = supported(cmake, cuda)
    if RESTORED in cmake and "12.1" not in known and {"12.1a", "12.1f"} & {*plain}:
        known = (*known, "12.1")
    compiled = loose_intersection(known, plain, version)
    refuse_traps(asked, compiled, version)
    # The lists of the kernels that need more than the base instructions: FP4, FP8, Marlin.
    family = loose_intersection((FAMILY,), compiled, version)
    devices = []
    for capability in DEVICES:
        if not any(meant(part, capability) for part in plain):
            continue
        best = best_of(compiled, capability)
        kept = ";".join(compiled) or "nothing"
        why = f"a compile with CUDA {cuda} keeps {kept} of {';'.join(asked)}: "
        why += rule(best, capability, compiled) + (DROPPED if plain != asked else "")
        of_family = best_of(family, capability)
        if family and of_family in (Verdict.PTX, Verdict.NONE):
            why += f"; but lists that name {FAMILY} become {';'.join(family)}: {RULES[of_family]}"
            best = of_family
        devices.append(Device(capability=capability, verdict=best, why=why))
    return ArchPlan(asked=asked, compiled=compiled, devices=tuple(devices))


def best_of(compiled: tuple[str, ...], capability: str) -> Verdict:
    return min((serves(part, capability) for part in compiled), key=rank, default=Verdict.NONE)


def refuse_traps(asked: tuple[str, ...], compiled: tuple[str, ...], version: Version) -> None:
    """Lists that compile into what stops on the device, which no verdict shows."""
    own = [part for part in compiled if part.startswith("12.1")]
    if own and version < TRAP_GONE:
        raise UsageError(
            f"--arch {';'.join(asked)} gives code for sm_121 itself, and CUTLASS's matrix products "
            f"of vLLM {version} stop with a device trap in such code",
            means="They want __CUDA_ARCH__ == 1200 (enable_sm120_only) up to 0.21.",
            next="python build.py --arch 12.1   # 12.0 code, which DGX Spark runs",
        )


RULES = {
    Verdict.NATIVE: "code for this very device",
    Verdict.FAMILY: "family code, which both SM12x chips run",
    Verdict.SAME_MAJOR: "code for a lower minor of the same major, which runs here; "
    "lists that name 12.0f give family code",
    Verdict.PTX: "PTX, which the driver compiles at load",
    Verdict.NONE: "no code this device can run",
    Verdict.AT_RUN_TIME: "compiled at run time from sources that are in the wheel",
    Verdict.NO_GPU_CODE: "no GPU code",
}


def rule(verdict: Verdict, capability: str, compiled: Iterable[str]) -> str:
    """The rule behind a device's verdict on code that is compiled for these architectures."""
    least = min((p for p in compiled if serves(p, capability) == Verdict.FAMILY), default=FAMILY)
    if verdict != Verdict.FAMILY or least == FAMILY:
        return RULES[verdict]
    return f"family code ({least}), which {least[:-1]} and later chips of its family run"


def meant(asked: str, capability: str) -> bool:
    """Whether somebody who asks for this architecture has this device in mind."""
    if asked.endswith("f"):
        return serves(asked, capability) == Verdict.FAMILY
    return asked.rstrip("a") == capability


def rank(verdict: Verdict) -> int:
    return list(Verdict).index(verdict)


def serves(compiled: str, capability: str) -> Verdict:
    """What code compiled for one architecture is on one device."""
    base = compiled.rstrip("af")
    same_major = major(base) == major(capability)
    lower = same_major and Version(base) < Version(capability)
    if compiled.endswith("f"):
        return Verdict.FAMILY if lower or base == capability else Verdict.NONE
    if base == capability:
        return Verdict.NATIVE
    return Verdict.SAME_MAJOR if lower and compiled == base else Verdict.NONE


def ptx_serves(compiled: str, capability: str) -> Verdict:
    """The same for PTX: that of any earlier device, but 120f for its family and 120a for 12.0."""
    if compiled[-1] in "af":
        runs = serves(compiled, capability) != Verdict.NONE
    else:
        runs = Version(compiled) <= Version(capability)
    return Verdict.PTX if runs else Verdict.NONE


def loose_intersection(
    source: tuple[str, ...], target: tuple[str, ...], version: Version
) -> tuple[str, ...]:
    """``cuda_archs_loose_intersection`` (cmake/utils.cmake) as it is in that release of vLLM."""
    both_kept = version >= BOTH_KEPT
    ptx = {arch.removesuffix("+PTX") for arch in source if arch.endswith("+PTX")}
    ordered = [a for a in source if not a.endswith("+PTX")]
    ordered += [a.removesuffix("+PTX") for a in source if a.endswith("+PTX")]
    left_source = list(dict.fromkeys(ordered))
    left_target = list(target)
    found: list[str] = []
    if version >= EXACT_FIRST:
        match_numbers(left_source, left_target, found, whole_number=both_kept)
        match_families(left_source, left_target, (), found)
    else:
        match_families(left_source, left_target, target, found)
    for arch in list(left_target):
        # A suffixed target matches the plain source of the same number and keeps its suffix.
        if arch[-1] in "af" and arch[:-1] in left_source:
            left_target.remove(arch)
            found.append(arch)
            if not both_kept or arch[:-1] not in left_target:
                left_source.remove(arch[:-1])
    left_source.sort(key=Version)
    for arch in left_target:
        best = None
        for candidate in left_source:
            if Version(candidate) > Version(arch.rstrip("af")):
                break
            if candidate in ptx or major(candidate) == major(arch):
                best = candidate
        if best is not None:
            found.append(best)
    return tuple(a + "+PTX" if a in ptx else a for a in dict.fromkeys(found))


def match_numbers(
    left_source: list[str], left_target: list[str], found: list[str], *, whole_number: bool
) -> None:
    """Sources that end in a or f with a plain target of the same number.

    whole_number: the match uses up the suffixed targets of that number as well.
    """
    for arch in [a for a in left_source if a[-1] in "af"]:
        base = arch[:-1]
        if base in left_target:
            left_source.remove(arch)
            for same in (base, base + "a", base + "f") if whole_number else (base,):
                if same in left_target:
                    left_target.remove(same)
            found.append(arch)


def match_families(
    left_source: list[str], left_target: list[str], plain: tuple[str, ...], found: list[str]
) -> None:
    """Sources that end in a or f: the same number first, then (f) any target of the family.

    plain: the targets whose plain number matches as well. Upstream looks at the whole list there,
    so that a second source of the number matches, too.
    """
    for arch in [a for a in left_source if a[-1] in "af"]:
        left_source.remove(arch)
        base = arch[:-1]
        if base in plain:
            if base in left_target:
                left_target.remove(base)
            found.append(arch)
            continue
        same = next((base + s for s in "af" if base + s in left_target), None)
        if same is None and arch.endswith("f"):
            same = next((t for t in left_target if major(t) == major(arch)), None)
        if same is not None:
            left_target.remove(same)
            found.append(same)


def major(arch: str) -> str:
    return arch.split(".")[0]
