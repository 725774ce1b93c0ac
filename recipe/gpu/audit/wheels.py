# SPDX-License-Identifier: Apache-2.0
"""The wheels of an audit: what each says of itself, and its GPU code."""

from __future__ import annotations

from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.version import Version

from recipe.bases.download import fetch
from recipe.bases.releases import Base, Bases
from recipe.gpu.code import ComponentCode, published_code, wheel_code
from recipe.ground.digest import sha256_of
from recipe.ground.errors import UsageError
from recipe.ground.project import Project
from recipe.wheel import read as wheel_read
from recipe.wheel.read import dist_info

UPSTREAM = "upstream"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel by what it says of itself; base: the pinned release it was made from."""

    path: Path
    sha256: str
    project: str
    version: str
    machine: str
    base: Base | None


def open_wheel(path: Path, bases: Bases) -> Wheel:
    """What the wheel says of itself; UsageError without a file, AuditError if it is no wheel."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file", next="python build.py audit dist/NAME.whl")
    with wheel_read.opened(path) as archive:
        info = dist_info(archive)
        texts = [
            wheel_read.content_of(archive, path, f"{info}/{name}", wheel_read.LARGEST_TEXT)
            for name in ("METADATA", "WHEEL")
        ]
    try:
        metadata, tags = (HeaderParser().parsestr(text.decode()) for text in texts)
        name, version = metadata["Name"] or "", str(Version(metadata["Version"]))
    except (ValueError, TypeError) as error:
        raise wheel_read.no_wheel(path, f"{info}/METADATA: {error}") from None
    public = Version(version).public
    same = (base for base in bases.releases if name == "vllm" and str(base.version) == public)
    machine = "aarch64" if (tags["Tag"] or "").endswith("aarch64") else "x86_64"
    return Wheel(
        path=path,
        sha256=sha256_of(path),
        project=name,
        version=version,
        machine=machine,
        base=next(same, None),
    )


def code_of(wheel: Wheel, bases: Bases, project: Project) -> tuple[ComponentCode, ...]:
    """A published wheel's code is kept in the cache, any other's is read each time."""
    pinned = {one.sha256 for base in bases.releases for one in base.wheels.values()}
    if wheel.sha256 in pinned:
        return published_code(wheel.path, wheel.sha256, project.cache)
    return wheel_code(wheel.path)


def other_wheel(
    against: str | None, wheel: Wheel, bases: Bases, project: Project, *, offline: bool
) -> Wheel | None:
    """The wheel to compare with: a file, or what upstream published of the same base."""
    if against is None:
        return None
    if against != UPSTREAM:
        return open_wheel(Path(against), bases)
    if wheel.base is None or wheel.machine not in wheel.base.wheels:
        raise UsageError(
            f"--against upstream: {wheel.project} {wheel.version} is of no pinned base",
            means="Upstream's wheel is found by the version, through bases.toml.",
            next=f"python build.py bases add v{Version(wheel.version).public}"
            if wheel.project == "vllm"
            else "name a wheel: --against FILE",
        )
    path = fetch(
        wheel.base.wheels[wheel.machine],
        project="vllm",
        version=str(wheel.base.version),
        cache=project.cache,
        offline=offline,
    )
    return open_wheel(path, bases)
