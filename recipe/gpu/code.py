# SPDX-License-Identifier: Apache-2.0
"""The GPU code of a wheel, component by component, and what a device gets from it.

A driver takes one image of each translation unit: machine code the device can run if there is any,
else PTX, which it compiles. So the unit is what is judged, and a component by its units.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.bases.components import ONE_PYTHON, component_name
from recipe.gpu import arch, fatbin, kernel_names
from recipe.gpu.arch import Verdict
from recipe.gpu.fatbin import Kind
from recipe.ground import proven
from recipe.ground.digest import sha256
from recipe.ground.errors import AuditError
from recipe.wheel import read as wheel_read

# What a stored reading depends on.
TARGET = re.compile(r"\d{1,4}\.\d[af]?")
READERS = (fatbin, kernel_names)
SCHEMA = 3
# DeepGEMM compiles what it needs on the device; a header's name says what it is for.
RUN_TIME_SOURCES = re.compile(r"deep_gemm/include/deep_gemm/impls/sm(\d+)_\w+\.cuh$")


@dataclass(frozen=True, kw_only=True)
class Image:
    """Code for one target, such as ``12.0f``; kernels: how many it has of each family."""

    kind: Kind
    target: str
    kernels: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ComponentCode:
    """What one shared object holds.

    name: the component's, with a Python's where each has a copy. file: the wheel's member. units:
    the images of each translation unit. run_time: the architectures (``12.0``) of kernels in source
    form that the component compiles itself.
    """

    name: str
    file: str
    units: tuple[tuple[Image, ...], ...]
    run_time: tuple[str, ...] = ()

    @property
    def component(self) -> str:
        """The CMake target it is from."""
        return component_name(self.file)

    def targets(self, kind: Kind) -> Counter[str]:
        """How many images there are for each target, in the order of the targets."""
        found = Counter(i.target for unit in self.units for i in unit if i.kind == kind)
        return Counter({target: found[target] for target in sorted(found, key=order)})

    def verdict(self, capability: str) -> Verdict:
        """The best of the units' verdicts."""
        if not self.units and not self.run_time:
            return Verdict.NO_GPU_CODE
        if any(arch.major(one) == arch.major(capability) for one in self.run_time):
            return Verdict.AT_RUN_TIME
        found = [judge(unit, capability)[0] for unit in self.units]
        return min(found, key=arch.rank, default=Verdict.NONE)


def judge(unit: Iterable[Image], capability: str) -> tuple[Verdict, Image | None]:
    """What a device gets from one translation unit, and the image it is taken from."""
    best: tuple[Verdict, Image | None] = (Verdict.NONE, None)
    for image in unit:
        serves = arch.serves if image.kind == Kind.SASS else arch.ptx_serves
        verdict = serves(image.target, capability)
        if arch.rank(verdict) < arch.rank(best[0]):
            best = (verdict, image)
    return best


def order(target: str) -> tuple[float, str]:
    return (float(target.rstrip("af")), target)


def read_object(name: str, file: str, content: bytes, within: str = "") -> ComponentCode:
    """The code in one shared object; AuditError if it is damaged. within: the wheel it is from."""
    try:
        units = fatbin.read(content)
    except fatbin.BadCode as bad:
        raise AuditError(
            f"{within}{': ' if within else ''}{file}: {bad}",
            means="The object is damaged, or its GPU code has a form this recipe doesn't know.",
            next=f"look at it with NVIDIA's tool: cuobjdump --list-elf {Path(file).name}",
        ) from None
    return ComponentCode(
        name=name,
        file=file,
        units=tuple(
            tuple(
                Image(
                    kind=image.kind,
                    target=image.target,
                    kernels=Counter(kernel_names.family(k, name) for k in sorted(image.kernels)),
                )
                for image in unit
            )
            for unit in units
        ),
    )


def verdicts(code: Path | bytes, capabilities: Iterable[str]) -> dict[str, Verdict]:
    """What each device (``12.1``) gets from one shared object; AuditError if it is damaged."""
    name = component_name(code.name) if isinstance(code, Path) else "object"
    content = code.read_bytes() if isinstance(code, Path) else code
    found = read_object(name, name, content)
    return {capability: found.verdict(capability) for capability in capabilities}


def wheel_code(path: Path) -> tuple[ComponentCode, ...]:
    """The shared objects of a wheel, by name; one is read at a time, and nothing is unpacked.

    AuditError for a file that is no wheel, is cut off or damaged, or has no shared object.
    """
    with wheel_read.opened(path) as wheel:
        members = wheel.namelist()
        files = [m for m in members if m.endswith(".so") or ".so." in Path(m).name]
        bare = Counter(component_name(file) for file in files)
        names = {f: n if bare[n := component_name(f)] == 1 else one_of(n, f) for f in files}
        found = []
        for file in sorted(files):
            code = wheel_read.content_of(wheel, path, file, wheel_read.LARGEST_OBJECT)
            found.append(read_object(names[file], file, code, within=path.name))
    if not found:
        raise AuditError(
            f"{path.name} has no shared object",
            means="There is no compiled code in it, so nothing for a GPU.",
            next="name a wheel for Linux with compiled extensions",
        )
    return with_run_time(found, members)


def one_of(component: str, file: str) -> str:
    """What to call a shared object of a component that has several."""
    python = ONE_PYTHON.search(file)
    return f"{component} for Python 3.{python[1]}" if python else file


def with_run_time(found: list[ComponentCode], members: Iterable[str]) -> tuple[ComponentCode, ...]:
    """The components, DeepGEMM's with the architectures its sources in the wheel are for."""
    numbers = {int(hit[1]) for m in members if (hit := RUN_TIME_SOURCES.search(m))}
    archs = tuple(f"{number // 10}.{number % 10}" for number in sorted(numbers))
    return tuple(
        ComponentCode(name=c.name, file=c.file, units=c.units, run_time=archs)
        if c.component == "_deep_gemm_C"
        else c
        for c in sorted(found, key=lambda one: one.name)
    )


def published_code(wheel: Path, sha256: str, cache: Path) -> tuple[ComponentCode, ...]:
    """``wheel_code`` of a wheel whose hash is known: read once, then kept in the cache by it."""
    stored = cache / "gpu-code" / f"{sha256}-{reader_key()}.json"
    question = f"GPU code of {stored.stem}"
    kept = proven.recall(stored, question)
    found = None if kept is None else load(kept)
    if found is None:
        found = wheel_code(wheel)
        proven.keep(stored, question, {"components": as_json(found)})
    return found


def reader_key() -> str:
    """A hash over the code that reads, so that nobody need remember to bump a number."""
    code = [sha256(Path(module.__file__ or "").read_bytes()) for module in READERS]
    return sha256(json.dumps([SCHEMA, code]).encode())[:16]


def as_json(found: tuple[ComponentCode, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "file": one.file,
            "units": [[[i.kind, i.target, dict(i.kernels)] for i in unit] for unit in one.units],
            "run_time": list(one.run_time),
        }
        for one in found
    ]


def load(kept: Mapping[str, Any]) -> tuple[ComponentCode, ...] | None:
    """A stored reading; None if it has another form: it is read anew then."""
    try:
        found = tuple(
            ComponentCode(
                name=row["name"],
                file=row["file"],
                units=tuple(
                    tuple(Image(kind=Kind(k), target=t, kernels=n) for k, t, n in unit)
                    for unit in row["units"]
                ),
                run_time=tuple(row["run_time"]),
            )
            for row in kept["components"]
        )
        images = [image for one in found for unit in one.units for image in unit]
        targets = [*(image.target for image in images), *(t for c in found for t in c.run_time)]
        return found if all(TARGET.fullmatch(target) for target in targets) else None
    except (ValueError, KeyError, TypeError):
        return None
