# SPDX-License-Identifier: Apache-2.0
"""The ordered series: which patches there are, and what each topic is on one base."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path

from packaging.version import Version

from recipe.bases.releases import Base, Bases
from recipe.ground.errors import ConfigError
from recipe.ground.project import Project
from recipe.ground.text import read_text
from recipe.objects.gate.names import escaped, wrong_with
from recipe.series.file import entry_of
from recipe.series.overlay import OverlayFile, generated_files, patchset_digest, read_overlay
from recipe.series.patch import Patch, read_patch

UPSTREAMS = ("vllm", "deepgemm")
LOWER_ENDS = (">=", ">", "==", "~=")


class State(StrEnum):
    """What a topic is on a base, as the headers say."""

    APPLIES = "applies"
    UPSTREAMED = "upstreamed"
    NOT_NEEDED = "not-needed"
    UNRESOLVED = "unresolved"  # not exactly one of the others: a build stops there


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One topic resolved on one base.

    patch: the file that applies; for an unresolved topic, the one for the nearest older base, or
    else for the nearest newer one.
    """

    name: str
    state: State
    why: str
    patch: Patch | None


def read_series(project: Project) -> tuple[Patch, ...]:
    """Every patch of series.txt, in its order; an error with file and line if something is off."""
    entries = series_entries(project.series_file)
    present = {
        path.relative_to(project.patches).as_posix() for path in project.patches.rglob("*.patch")
    }
    seen: dict[str, int] = {}
    patches = []
    for line, entry in entries:
        if entry in seen:
            raise wrong(line, f"{entry} stands twice (first on line {seen[entry]})")
        seen[entry] = line
        if entry.split("/", 1)[0] not in UPSTREAMS or ".." in entry.split("/"):
            raise wrong(line, f"{escaped(entry)[1:-1]} is not under {' or '.join(UPSTREAMS)}")
        if why := wrong_with(entry):
            raise wrong(line, f"{escaped(entry)} {why}")
        if entry not in present:
            raise wrong(line, f"patches/{entry} doesn't exist")
        patches.append(read_patch(project.patches, entry))
    for unused in sorted(present - set(seen)):
        raise ConfigError(
            f"patches/{unused} is in no line of series.txt",
            means="A patch outside the series is applied on no base.",
            next=f"add the line '{unused}' to series.txt, or: rm patches/{unused}",
        )
    return tuple(patches)


def series_entries(path: Path) -> list[tuple[int, str]]:
    """Line number and entry of a quilt series file; comments and blank groups are skipped."""
    lines = read_text(path).splitlines()
    named = ((number, entry_of(line)) for number, line in enumerate(lines, 1))
    return [(number, entry) for number, entry in named if entry is not None]


def resolve(patches: tuple[Patch, ...], base: Base) -> tuple[Topic, ...]:
    """Each topic on `base`, in series order: exactly one of applies, upstreamed, not needed."""
    return tuple(resolve_topic(name, files, base) for name, files in by_topic(patches).items())


def survey(patches: tuple[Patch, ...], base: Base) -> tuple[Topic, ...]:
    """As `resolve`, but a topic that no header resolves is given as such, not an error."""
    found = []
    for name, files in by_topic(patches).items():
        if claims(files, base.version):
            found.append(resolve_topic(name, files, base))
            continue
        nearest = nearest_file(files, base.version)
        why = f"no header says what it is on {base.tag}"
        found.append(Topic(name=name, state=State.UNRESOLVED, why=why, patch=nearest))
    return tuple(found)


def claims(files: list[Patch], version: Version) -> int:
    """How many of applies, upstreamed and not needed the headers say; one is right."""
    here = sum(patch.bases.contains(version) for patch in files)
    spared = any(p.not_needed is not None and p.not_needed.contains(version) for p in files)
    return here + any(has_it(p, version) for p in files) + spared


def by_topic(patches: tuple[Patch, ...]) -> dict[str, list[Patch]]:
    topics: dict[str, list[Patch]] = {}
    for patch in patches:
        topics.setdefault(patch.topic, []).append(patch)
    return topics


def nearest_file(files: list[Patch], version: Version) -> Patch:
    """The file whose range begins last before `version`, or else first after it."""
    begun = [patch for patch in files if first_release(patch) <= version]
    return max(begun, key=first_release) if begun else min(files, key=first_release)


def first_release(patch: Patch) -> Version:
    """The lower end of a patch's range."""
    ends = [Version(s.version.removesuffix(".*")) for s in patch.bases if s.operator in LOWER_ENDS]
    return max(ends, default=Version("0"))


def resolve_topic(name: str, files: list[Patch], base: Base) -> Topic:
    version = base.version
    here = [patch for patch in files if patch.bases.contains(version)]
    upstreamed = [p.applied_upstream for p in files if has_it(p, version)]
    spared = [p for p in files if p.not_needed is not None and p.not_needed.contains(version)]
    claimed = claims(files, version)
    if claimed == 1 and here:
        why = f"{here[0].path} is for {here[0].bases}"
        return Topic(name=name, state=State.APPLIES, why=why, patch=here[0])
    if claimed == 1 and upstreamed:
        why = f"upstream has it since v{upstreamed[0]}"
        return Topic(name=name, state=State.UPSTREAMED, why=why, patch=None)
    if claimed == 1:
        why = f"not needed on {spared[0].not_needed}: see patches/{spared[0].path}"
        return Topic(name=name, state=State.NOT_NEEDED, why=why, patch=None)
    raise unresolved(name, files, base, claimed)


def has_it(patch: Patch, version: Version) -> bool:
    return patch.applied_upstream is not None and version >= patch.applied_upstream


def unresolved(name: str, files: list[Patch], base: Base, claimed: int) -> ConfigError:
    paths = ", ".join(
        f"patches/{patch.path}:{patch.line_of('Bases')} (Bases: {patch.bases})" for patch in files
    )
    if claimed == 0:
        what = f"topic {name} is unresolved on {base.tag}: {paths}"
        means = "No file of it applies there, and no header says that upstream has it."
    else:
        what = f"topic {name} is resolved {claimed} times on {base.tag}: {paths}"
        means = "Of applies, upstreamed and not needed exactly one must hold for a base."
    return ConfigError(what, means=means, next="mend Bases, Applied-Upstream or Not-Needed there")


def check(project: Project, bases: Bases) -> tuple[Patch, ...]:
    """The series, checked against every pinned base and the files its headers name."""
    patches = read_series(project)
    check_patches(project, bases, patches)
    return patches


def check_patches(project: Project, bases: Bases, patches: tuple[Patch, ...]) -> None:
    """ConfigError for the first thing that is wrong with these patches as a series."""
    for first, second in combinations(patches, 2):
        if first.topic == second.topic and first.upstream != second.upstream:
            raise ConfigError(
                f"topic {first.topic} is in two upstreams: "
                f"patches/{first.path}:{first.line_of('Topic')}, "
                f"patches/{second.path}:{second.line_of('Topic')}",
                next="give one of them its own Topic",
            )
    for base in bases.releases:
        resolve(patches, base)
    for patch in patches:
        for test in patch.tests:
            found = project.root / test
            inside = found.resolve().is_relative_to(project.root.resolve())
            if not (found.is_file() and inside):
                raise ConfigError(
                    f"patches/{patch.path}:{patch.line_of('Tests')}: Tests: {test} doesn't exist",
                    next="name a test file of this repository",
                )


def wrong(line: int, why: str) -> ConfigError:
    return ConfigError(
        f"series.txt:{line}: {why}",
        means="Nothing was applied.",
        next=f"mend line {line} of series.txt",
    )


@dataclass(frozen=True, kw_only=True)
class Series:
    """The series resolved on a base. files are the overlay's, the generated ones included."""

    topics: tuple[Topic, ...]
    patches: tuple[Patch, ...]
    files: tuple[OverlayFile, ...]
    digest: str


def resolve_series(project: Project, bases: Bases, base: Base, upstream: str = "vllm") -> Series:
    return series_on(project, base, check(project, bases), upstream)


def series_on(
    project: Project, base: Base, patches: tuple[Patch, ...], upstream: str = "vllm"
) -> Series:
    """`patches`, a whole series that is in order, resolved on a base."""
    topics = resolve(patches, base)
    chosen = tuple(
        topic.patch
        for topic in topics
        if topic.state == State.APPLIES and topic.patch is not None
        if topic.patch.upstream == upstream
    )
    return Series(
        topics=topics,
        patches=chosen,
        files=read_overlay(project, upstream) + generated_files(base, chosen),
        digest=patchset_digest(project, patches, UPSTREAMS),
    )
