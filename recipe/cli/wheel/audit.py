# SPDX-License-Identifier: Apache-2.0
"""The verb audit: what GPU code a wheel holds for the devices that were asked for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from email.parser import HeaderParser
from hashlib import file_digest
from pathlib import Path
from typing import Any

from packaging.version import Version

from recipe.bases.download import fetch
from recipe.bases.releases import Base, Bases, load_bases
from recipe.cli.verbs import show
from recipe.gpu import arch
from recipe.gpu.audit import report as audit_report
from recipe.gpu.audit.diff import compare
from recipe.gpu.audit.findings import audit, devices_of
from recipe.gpu.code import ComponentCode, published_code, wheel_code
from recipe.ground.errors import AuditError, UsageError
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.wheel import read as wheel_read
from recipe.wheel.write import dist_info

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


def run_audit(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    asked = arch.read_list(options.arch)
    bases = load_bases(project.bases_file)
    wheel = open_wheel(options.wheel, bases)
    say(f"reading the GPU code of {wheel.path.name}")
    code = code_of(wheel, bases, project)
    other = other_wheel(options, wheel, bases, project)
    devices = devices_of(asked)
    found = audit(code, devices, wheel.base)
    changes = compare(code, code_of(other, bases, project), devices) if other else ()
    subject = audit_report.Subject(
        wheel=wheel.path.name,
        sha256=wheel.sha256,
        project=wheel.project,
        version=wheel.version,
        base=wheel.base.tag if wheel.base else None,
        asked=asked,
        against=other.path.name if other else None,
    )
    show(options, audit_report.as_text(subject, found, changes))
    document = audit_report.as_json(subject, found, changes)
    if not found.served:
        bad = " and ".join(one.capability for one in found.devices if one.reasons)
        say(str(not_served(wheel, bad, options.arch)))
        document["exit_code"] = AuditError.exit_code
    return document


def not_served(wheel: Wheel, devices: str, asked: str) -> AuditError:
    return AuditError(
        f"{wheel.path.name} doesn't serve {devices}",
        means="It installs there, but what is named above fails or computes wrong results.",
        next=f"python build.py build --base {wheel.base.tag} --arch '{asked}' --native auto"
        if wheel.base
        else f"build it for these devices: TORCH_CUDA_ARCH_LIST='{asked}'",
    )


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
    with path.open("rb") as stream:
        sha256 = file_digest(stream, "sha256").hexdigest()
    public = Version(version).public
    same = (base for base in bases.releases if name == "vllm" and str(base.version) == public)
    machine = "aarch64" if (tags["Tag"] or "").endswith("aarch64") else "x86_64"
    return Wheel(
        path=path,
        sha256=sha256,
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
    options: argparse.Namespace, wheel: Wheel, bases: Bases, project: Project
) -> Wheel | None:
    """The wheel to compare with: a file, or what upstream published of the same base."""
    if options.against is None:
        return None
    if options.against != UPSTREAM:
        return open_wheel(Path(options.against), bases)
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
        offline=options.offline,
    )
    return open_wheel(path, bases)
