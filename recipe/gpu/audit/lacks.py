# SPDX-License-Identifier: Apache-2.0
"""What a wheel hasn't got at all: components and families of its release, and parts of Marlin."""

from __future__ import annotations

from collections.abc import Iterable

from recipe.bases.components import component_name
from recipe.bases.releases import Base
from recipe.gpu import arch
from recipe.gpu import expected as expected_code
from recipe.gpu.code import ComponentCode, judge, order


def absent(code: Iterable[ComponentCode], base: Base) -> tuple[str, ...]:
    """The components of a pinned release that a wheel of it lacks."""
    there = {component_name(one.file) for one in code}
    return tuple(name for name in base.components if name not in there)


def lacking(code: Iterable[ComponentCode], capability: str, base: Base) -> list[str]:
    """What a device needs of the release that a wheel is of and that isn't in it, as reasons."""
    major = arch.major(capability)
    found = [
        f"{name} is not in this wheel, and upstream's of {base.tag} have it"
        for name in absent(code, base)
        if not expected_code.may_be_absent(name, major)
    ]
    images = [image for one in code for unit in one.units for image in unit]
    there = {name.partition(" (")[0] for image in images for name in image.kernels}
    required = expected_code.REQUIRED if major == expected_code.SM12X else ()
    found += [
        f"{family} is in no component, and upstream's wheels of {base.tag} have it"
        for family in required
        if family not in there
    ]
    return found


def left_out(family: str, code: ComponentCode, capability: str) -> tuple[tuple[str, ...], int]:
    """The targets of those translation units of Marlin that give a device nothing, and how many
    kernels they have."""
    found: set[str] = set()
    number = 0
    for unit in code.units:
        having = {image.target: n for image in unit if (n := image.kernels.get(family, 0))}
        _, image = judge(unit, capability)
        given = image is not None and image.target in having
        if having and not given and expected_code.left_out(family, having):
            found |= set(having)
            number += max(having.values())
    return tuple(sorted(found, key=order)), number
