# SPDX-License-Identifier: Apache-2.0
"""Edit a patch's header in place: one trailer at a time, and the ranges of releases in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from packaging.specifiers import Specifier, SpecifierSet
from packaging.version import Version

from recipe.series.patch import KNOWN, split_diff


def set_trailer(content: bytes, name: str, value: str | None) -> bytes:
    """The patch with the trailer `name` set to `value`, or without it if `value` is None.

    Every other byte stays. A missing trailer goes where the order of patch.KNOWN puts it.
    `content` is a patch that patch.read_patch accepts.
    """
    if name not in KNOWN or (value is not None and not re.fullmatch(r"\S|\S.*\S", value)):
        raise ValueError(f"not a trailer: {name}: {value!r}")
    start, end = trailer_block(content)
    lines = content[start:end].split(b"\n")
    names = [line.partition(b": ")[0].decode(errors="replace") for line in lines]
    new = [] if value is None else [f"{name}: {value}".encode()]
    if name in names:
        position = names.index(name)
        lines[position : position + 1] = new
    else:
        later = KNOWN[KNOWN.index(name) + 1 :]
        known = [i for i, found in enumerate(names) if found in KNOWN]
        after = known[-1] + 1 if known else len(lines)  # before a sign-off
        position = next((i for i, found in enumerate(names) if found in later), after)
        lines[position:position] = new
    return content[:start] + b"\n".join(lines) + content[end:]


def trailer_block(content: bytes) -> tuple[int, int]:
    """Where the last paragraph of the message starts and ends, without its last newline."""
    head = split_diff(content)[0].rstrip(b"\n").removesuffix(b"\n---").rstrip(b"\n")
    return head.rfind(b"\n\n") + 2, len(head)


def bounded_below(spec: SpecifierSet, version: Version) -> SpecifierSet:
    """The same range, but only releases before `version`."""
    bound = f"<{release_text(version)}"
    kept = [one for one in clauses(spec) if not (is_upper(one) and starts_by(one, version))]
    if any(is_upper(one) for one in kept):
        return joined(kept)
    return joined([*kept, Specifier(bound)])


def covering(spec: SpecifierSet, version: Version, next: Version | None) -> SpecifierSet:
    """The smallest widening of the range that contains `version`.

    A lower bound above it is lowered to it. An upper bound below it becomes ``<next``, or goes
    if there is no next release. A range that contains `version` stays as it is.
    """
    if spec.contains(version):
        return spec
    kept = [one for one in clauses(spec) if one.contains(version)]
    lost = [one for one in clauses(spec) if not one.contains(version)]
    if any(is_lower(one) for one in lost):
        kept.append(Specifier(f">={release_text(version)}"))
    if any(is_upper(one) for one in lost) and next is not None:
        kept.append(Specifier(f"<{release_text(next)}"))
    return joined(kept)


def including(spec: SpecifierSet, version: Version, pinned: Iterable[Version]) -> SpecifierSet:
    """The range with `version`, and with no other of the pinned releases that it hadn't."""
    wide = covering(spec, version, None)
    new = [one for one in pinned if one != version and wide.contains(one) != spec.contains(one)]
    return without(wide, new)


def without(spec: SpecifierSet, versions: Iterable[Version]) -> SpecifierSet:
    """The range but for these very releases."""
    gone = [Specifier(f"!={release_text(one)}") for one in versions if spec.contains(one)]
    return joined([*spec, *gone])


def range_text(spec: SpecifierSet) -> str:
    """The range as a header writes it, lower bound first: ``>=0.20,<0.24``."""
    rank = {">=": 0, ">": 0, "~=": 0, "<": 2, "<=": 2, "!=": 3}
    ordered = sorted(spec, key=lambda one: (rank.get(one.operator, 1), str(one)))
    # A header can't be empty.
    return ",".join(str(one) for one in ordered) or ">=0"


def release_text(version: Version) -> str:
    """``0.24`` for 0.24.0, ``0.24.1`` for 0.24.1."""
    return re.sub(r"^(\d+\.\d+)(?:\.0)+(?!\.?\d)", r"\1", str(version))


def clauses(spec: SpecifierSet) -> Iterator[Specifier]:
    """The range's clauses, ``~=`` and ``==`` written as a lower and an upper bound."""
    for one in spec:
        version = one.version.removesuffix(".*")
        prefix = one.operator == "==" and one.version.endswith(".*")
        if one.operator == "~=" or prefix:
            release = list(Version(version).release)
            if not prefix:
                release.pop()
            release[-1] += 1
            yield Specifier(f">={version}")
            yield Specifier(f"<{'.'.join(map(str, release))}")
        elif one.operator == "==":
            yield Specifier(f">={version}")
            yield Specifier(f"<={version}")
        else:
            yield one


def joined(parts: list[Specifier]) -> SpecifierSet:
    return SpecifierSet(",".join(str(one) for one in parts))


def is_upper(one: Specifier) -> bool:
    return one.operator in ("<", "<=")


def is_lower(one: Specifier) -> bool:
    return one.operator in (">", ">=")


def starts_by(upper: Specifier, version: Version) -> bool:
    """Whether `version` or a later release is still inside this upper bound."""
    bound = Version(upper.version)
    return bound > version or (bound == version and upper.operator == "<=")
