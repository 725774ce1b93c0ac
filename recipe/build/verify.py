# SPDX-License-Identifier: Apache-2.0
"""Prove what a wheel is: work out from the repository and upstream's archives what it must be, and
hold it against that. What it says of itself decides nothing that can be worked out.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

from recipe.bases.download import fetch
from recipe.bases.releases import DEFAULT_ARCH, Base, Bases
from recipe.build.edit import Extensions, edit_of
from recipe.build.pipeline import choose_tag, glibc
from recipe.build.plan import Plan, make_plan
from recipe.ground import scratch
from recipe.ground.errors import AuditError, UsageError
from recipe.ground.log import Log
from recipe.ground.project import Project
from recipe.wheel import sign, statement
from recipe.wheel.check import binaries_tag, platform_tag
from recipe.wheel.layout import By, Packed
from recipe.wheel.read import no_wheel, opened
from recipe.wheel.verify import archive, claim
from recipe.wheel.verify.archive import Archive
from recipe.wheel.verify.claim import Claim
from recipe.wheel.verify.compare import hold
from recipe.wheel.verify.finding import ARCHIVE, FILE_NAME, Finding
from recipe.wheel.write import wheel_name

SCHEMA = 1
STATEMENT = "(the statement beside it)"
MACHINE = re.compile(r"_(x86_64|aarch64)(?:\.whl)?$")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came out. members: how many are whose. on_its_word: the compiled ones, of which the
    record alone says what they are.
    statement: what the one beside it is worth."""

    wheel: Path
    sha256: str
    base: Base
    plan: Plan
    findings: tuple[Finding, ...]
    members: Mapping[By, int]
    on_its_word: tuple[str, ...]
    said: Claim
    statement: str

    @property
    def proven(self) -> bool:
        return not self.findings


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A wheel that is open: the same bytes are hashed, read and compared."""

    path: Path
    stream: IO[bytes]
    data: mmap.mmap
    read: Archive
    said: Claim


@contextmanager
def subject_of(path: Path) -> Iterator[Subject]:
    """UsageError without a file, AuditError if no reader takes it for an archive."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file", next="python build.py verify dist/NAME.whl")
    with path.open("rb") as stream:
        if path.stat().st_size == 0:
            raise no_wheel(path, "it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            read = archive.read(data)
            if read is None:
                raise no_wheel(path, "it has no end of an archive")
            yield Subject(path=path, stream=stream, data=data, read=read, said=claim.claim(read))


def verify(
    project: Project, bases: Bases, path: Path, *, key: Path | None, offline: bool, log: Log
) -> Verdict:
    """Hold a wheel against what this repository makes; nothing is left on the disk."""
    with subject_of(path) as subject, ThreadPoolExecutor(1) as beside:
        hashing = beside.submit(digest_of, subject.data)  # while the series goes on
        base = base_of(subject, bases)
        with log.stage("plan", f"Applying the series to {base.tag}"):
            plan = make_plan(
                project,
                bases,
                base,
                arch_list=DEFAULT_ARCH,
                platform=machine_of(subject, base),
                source="auto",
                offline=offline,
            )
        with log.stage("fetch", f"Looking at {plan.published.name}"):
            published = fetch(
                plan.published,
                project="vllm",
                version=str(base.version),
                cache=project.cache,
                offline=offline,
            )
        digest = hashing.result()
        about, findings = about_statement(project, subject, digest, key)
        with log.stage("compare", f"Comparing {path.name}, byte by byte"):
            more, members = compared(project, plan, subject, published)
    return Verdict(
        wheel=path,
        sha256=digest,
        base=base,
        plan=plan,
        findings=(*findings, *more),
        members=members,
        on_its_word=tuple(m for files in subject.said.files.values() for m in sorted(files)),
        said=subject.said,
        statement=about,
    )


def digest_of(data: mmap.mmap) -> str:
    """The sha256 of the very bytes that are read and compared."""
    return hashlib.sha256(data).hexdigest()


def compared(
    project: Project, plan: Plan, subject: Subject, published: Path
) -> tuple[list[Finding], Mapping[By, int]]:
    if subject.said.whole:
        why = "is upstream's whole build (--native all): only a rebuild shows what is in it"
        return [Finding(member=ARCHIVE, why=why)], {}
    with scratch.folder(project.cache, "verify") as folder:
        files, findings = compiled(subject, folder)
        extensions = Extensions(
            components=claim.believable(plan.components, subject.said),
            files=files,
            built=subject.said.built,
        )
        found = {n: folder / n for of_one in files.values() for n in of_one}
        tag, about = tag_of(project, plan, subject, published, found)
        findings += about
    made = edit_of(project, plan, published, extensions, tag)
    with opened(published) as old:
        held = hold(subject.data, old, made.edit, subject.read)
    must = wheel_name(plan.published.name, plan.version, tag)
    if subject.path.name != must and not about:
        why = f"isn't what the wheel must be called: {must}"
        findings.append(Finding(member=FILE_NAME, why=why))
    return [*findings, *held.findings], held.members


def compiled(
    subject: Subject, folder: Path
) -> tuple[dict[str, dict[str, Path | Packed]], list[Finding]]:
    """The compiled members that the record names, unpacked into `folder`; those that aren't as it
    says."""
    found: dict[str, dict[str, Path | Packed]] = {}
    findings = []
    for component, files in subject.said.files.items():
        for member, digest in sorted(files.items()):
            packed = claim.taken_out(subject.read, subject.stream, member, folder / member)
            if packed is None or packed.sha256 != digest:
                there = packed.sha256 if packed else "nothing that can be unpacked"
                why = f"isn't the compiled file that the record names: {there}, not {digest}"
                findings.append(Finding(member=member, why=why))
            if packed is not None:
                found.setdefault(component, {})[member] = packed
    return found, findings


def base_of(subject: Subject, bases: Bases) -> Base:
    """The release that a wheel must be of; AuditError if this repository makes no such wheel."""
    ours = {f"{base.version}+sm12x.{bases.revision}": base for base in bases.releases}
    for version in subject.said.versions:
        if version in ours:
            return ours[version]
    said = " and ".join(subject.said.versions) or "nothing"
    local = re.search(r"\+sm12x\.(\d+)$", said)
    raise AuditError(
        f"{subject.path.name} says that it is {said}, which this repository doesn't make",
        means=f"It makes revision {bases.revision} of {len(ours)} releases.",
        next="verify it with the repository's own revision of that number: git log -- bases.toml"
        if local
        else "python build.py bases   # lists the releases",
    )


def machine_of(subject: Subject, base: Base) -> str:
    """What most of a wheel's own words say that it is for: one of them may be forged."""
    words = [subject.path.name, subject.said.tag, subject.said.published]
    found = [match[1] for match in map(MACHINE.search, words) if match]
    known = [machine for machine in found if machine in base.wheels]
    return max(known, key=known.count, default="x86_64")


def tag_of(
    project: Project, plan: Plan, subject: Subject, published: Path, found: Mapping[str, Path]
) -> tuple[str, list[Finding]]:
    """The tag that the wheel must have: the computed one, or a stricter one that it is named by."""
    computed = platform_tag(published, plan.published.sha256, project.cache)
    if found:
        objects = {name: path for name, path in found.items() if name.endswith(".so")}
        ours = binaries_tag(objects, plan.machine, project.cache)
        computed = max(computed, ours, key=glibc)
    named = named_tag(subject.path.name)
    try:
        return choose_tag(named, computed), []
    except AuditError:
        why = f"promises {named}; its shared objects need {computed}"
        return computed, [Finding(member=FILE_NAME, why=why)]


def named_tag(name: str) -> str | None:
    """The one platform tag of a file's name."""
    try:
        tags = parse_wheel_filename(name)[3]
    except (InvalidWheelFilename, InvalidVersion):
        return None
    platforms = {tag.platform for tag in tags}
    only = next(iter(platforms))
    known = re.fullmatch(r"manylinux_\d{1,3}_\d{1,3}_(x86_64|aarch64)", only)
    return only if len(platforms) == 1 and known else None


def about_statement(
    project: Project, subject: Subject, digest: str, key: Path | None
) -> tuple[str, list[Finding]]:
    """What the statement beside a wheel is worth, in words; AuditError if it isn't of `key`."""
    if key is not None:
        sign.check(statement.beside(subject.path), key, project.cache)
    document = statement.read_statement(subject.path)
    if document is None:
        return "none beside the wheel", []
    if digest not in statement.subjects(document).values():
        why = "is of another wheel: its subject has another sha256"
        return "of another wheel", [Finding(member=STATEMENT, why=why)]
    return f"signed with {key.name}" if key else "not checked: no --key was given", []


def as_json(verdict: Verdict, rebuilt: Mapping[str, Any] | None) -> dict[str, Any]:
    """The document of ``verify --json``."""
    return {
        "schema": SCHEMA,
        "wheel": verdict.wheel.name,
        "sha256": verdict.sha256,
        "base": verdict.base.tag,
        "proven": verdict.proven,
        "members": {by: verdict.members.get(by, 0) for by in By},
        "on_its_word": list(verdict.on_its_word),
        "patchset_digest": verdict.plan.series.digest,
        "statement": verdict.statement,
        "findings": [{"member": one.member, "why": one.why} for one in verdict.findings],
        "rebuilt": dict(rebuilt) if rebuilt is not None else None,
    }
