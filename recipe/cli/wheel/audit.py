# SPDX-License-Identifier: Apache-2.0
"""The verb audit: what GPU code a wheel holds for the devices that were asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.bases.releases import DEFAULT_ARCH, load_bases
from recipe.cli.answers import show
from recipe.cli.options import add_offline, verb
from recipe.ground.errors import AuditError
from recipe.ground.log import say
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.gpu.audit.wheels import Wheel


def add_audit(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "say what GPU code a wheel holds for the devices asked for", run_audit
    )
    parser.add_argument("wheel", type=Path, metavar="WHEEL", help="a .whl file, ours or any other")
    parser.add_argument("--arch", default=DEFAULT_ARCH, help="the devices: 12.1, 12.0;12.1, 9.0")
    parser.add_argument(
        "--against",
        metavar="WHEEL",
        help="show what differs from this wheel; upstream: the published one of the same base",
    )
    add_offline(parser)


def run_audit(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.gpu import arch
    from recipe.gpu.audit import report as audit_report
    from recipe.gpu.audit import wheels
    from recipe.gpu.audit.diff import compare
    from recipe.gpu.audit.findings import audit, devices_of

    asked = arch.read_list(options.arch)
    bases = load_bases(project.bases_file)
    wheel = wheels.open_wheel(options.wheel, bases)
    say(f"reading the GPU code of {wheel.path.name}")
    code = wheels.code_of(wheel, bases, project)
    other = wheels.other_wheel(options.against, wheel, bases, project, offline=options.offline)
    devices = devices_of(asked)
    found = audit(code, devices, wheel.base)
    changes = compare(code, wheels.code_of(other, bases, project), devices) if other else ()
    head = audit_report.Subject(
        wheel=wheel.path.name,
        sha256=wheel.sha256,
        project=wheel.project,
        version=wheel.version,
        base=wheel.base.tag if wheel.base else None,
        asked=asked,
        against=other.path.name if other else None,
    )
    show(options, audit_report.as_text(head, found, changes))
    document = audit_report.as_json(head, found, changes)
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
