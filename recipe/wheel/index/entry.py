# SPDX-License-Identifier: Apache-2.0
"""One wheel as an index lists it, read from the wheel itself."""

from __future__ import annotations

from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from recipe.ground.digest import sha256, sha256_of
from recipe.ground.errors import AuditError
from recipe.objects.gate.names import escaped, wrong_file_name
from recipe.wheel import read
from recipe.wheel.check import check_wheel
from recipe.wheel.read import dist_info


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A wheel in the index.

    project: its normalised name. requires_python: as METADATA has it, "" where it says nothing.
    metadata: METADATA's bytes, which stand beside the wheel (PEP 658).
    """

    name: str
    project: str
    version: Version
    size: int
    sha256: str
    requires_python: str
    metadata: bytes

    @property
    def metadata_sha256(self) -> str:
        return sha256(self.metadata)


def project_of(name: str) -> tuple[str, Version]:
    """The normalised project and the version of a wheel's file name; ValueError if it is none."""
    if why := wrong_file_name(name):
        raise ValueError(f"its name {why}")
    try:
        project, version, _, _ = parse_wheel_filename(name)
    except InvalidWheelFilename as error:
        raise ValueError(str(error)) from None
    return str(project), version


def entry_of(path: Path, *, known_sha256: str | None = None) -> Entry:
    """The entry of a wheel; AuditError for what is no wheel or isn't what its name says.

    Every member is held against RECORD, unless the file's hash is the one it was published with.
    """
    try:
        project, version = project_of(path.name)
    except ValueError as error:
        raise refused(path.name, f"is not a wheel: {error}") from None
    found = sha256_of(path)
    if known_sha256 not in (None, found):
        raise changed(path, str(known_sha256), found)
    with read.opened(path) as archive:
        info = dist_info(archive)
        metadata = read.content_of(archive, path, f"{info}/METADATA", read.LARGEST_TEXT)
    named, said, requires_python = fields(path.name, metadata)
    if (named, Version(said)) != (project, version):
        raise refused(path.name, f"says of itself that it is {named} {said}")
    if known_sha256 is None:
        check_wheel(path, version=said, expected={})
    return Entry(
        name=path.name,
        project=project,
        version=version,
        size=path.stat().st_size,
        sha256=found,
        requires_python=requires_python,
        metadata=metadata,
    )


def fields(name: str, metadata: bytes) -> tuple[str, str, str]:
    """Normalised project, version as it is written, and Requires-Python of METADATA; AuditError
    for one that is damaged."""
    try:
        headers = HeaderParser().parsestr(metadata.decode("utf-8"))
        requires = str(headers["Requires-Python"] or "")
        SpecifierSet(requires)
        project = canonicalize_name(str(headers["Name"] or ""), validate=True)
        version = str(headers["Version"])
        Version(version)
    except (ValueError, LookupError, TypeError, InvalidSpecifier) as error:
        why = escaped(str(error))[1:-1]
        raise refused(name, f"has METADATA that can't be read: {why}") from None
    return str(project), version, requires


def refused(name: str, why: str) -> AuditError:
    return AuditError(
        f"{escaped(name)[1:-1]} {why}",
        means="The index is as it was.",
        next="name wheels that a build has put into dist/",
    )


def changed(path: Path, published: str, found: str) -> AuditError:
    return AuditError(
        f"{path} is not what was published\n  published sha256 {published}\n"
        f"  found     sha256 {found}",
        means="Who installed it before has other bytes. The index is as it was.",
        next=f"put the published file back, or: rm {path}   # and add the wheel again",
    )
