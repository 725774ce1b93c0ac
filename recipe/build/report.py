# SPDX-License-Identifier: Apache-2.0
"""The report of a build for a person."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename


def summary(report: dict[str, Any], wheel: Path) -> str:
    """Stages with their seconds, tests, what the wheel lacks, and where it is."""
    rows = [(stage["name"], f"{stage['seconds']:.1f} s") for stage in report["stages"]]
    rows.append(("all", f"{sum(stage['seconds'] for stage in report['stages']):.1f} s"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {seconds:>8}" for name, seconds in rows]
    lines += ["", f"patches    {len(report['patches'])}: {', '.join(report['patches'])}"]
    lines.append(f"patchset   {report['patchset_digest']}")
    lines.append(f"tests      {test_line(report['tests'])}")
    if report["not_in_this_wheel"]:
        lines.append("NOT in this wheel:")
        lines += [f"  {sentence}" for sentence in report["not_in_this_wheel"]]
    lines.append(f"sha256     {report['sha256']}")
    lines.append(f"wheel      {wheel}")
    lines.append(f"  {install_line(wheel)}")
    return "\n".join(lines)


def install_line(wheel: Path) -> str:
    """What installs the wheel and all that it needs, torch too, where it fits this machine."""
    if set(parse_wheel_filename(wheel.name)[3]).isdisjoint(sys_tags()):
        return f"on the machine that it is for: pip install {shlex.quote(wheel.name)}"
    return f"pip install {shlex.quote(str(wheel))}"


def test_line(tests: dict[str, Any]) -> str:
    if tests["skipped_why"]:
        return f"NOT TESTED: {tests['skipped_why']}"
    return (
        f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped "
        f"(torch {tests['torch']}, Python {tests['python']})"
    )
