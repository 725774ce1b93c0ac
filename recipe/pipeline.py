# SPDX-License-Identifier: Apache-2.0
"""The main job: plan, fetch, assemble, check, test, and only then put the wheel into dist/."""

from __future__ import annotations

import json
import os
import platform as machine_info
import shutil
import zipfile
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from recipe.wheel_check import check_wheel, platform_tag
from recipe.config import Base, Bases, Project
from recipe.download import fetch
from recipe.errors import AuditError, TestsFailed
from recipe.lock import hold
from recipe.log import Log
from recipe.native import Component, components
from recipe.overlay import sha256
from recipe.plan import Plan, make_plan, wheel_changes
from recipe.record import missing, record_files
from recipe.run import check_disk, disk_full
from recipe.sources import store_of
from recipe.testing import Outcome, find_python, test_wheel
from recipe.wheel import Edit, wheel_name, write_wheel

SCHEMA = 1
STAGING = ".staging"  # where a wheel is tested, under its real name
FAILED = "failed"  # the folder under --out for wheels whose tests failed


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks of a build."""

    arch: str
    platform: str
    source: str
    out: Path
    offline: bool
    test: bool
    test_torch: str | None
    python: str | None


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished wheel and its report (the document of ``build --json``)."""

    wheel: Path
    report: dict[str, Any]


def build(project: Project, bases: Bases, base: Base, options: Options, log: Log) -> Built:
    if options.test:
        find_python(base, options.python)  # a wrong --python is said before minutes of work
    with log.stage("plan", f"Applying the series to {base.tag}"):
        plan = make_plan(
            project,
            bases,
            base,
            arch_list=options.arch,
            platform=options.platform,
            source=options.source,
            offline=options.offline,
        )
    with log.stage("fetch", f"Fetching {plan.published.name}"):
        published = fetch(
            plan.published,
            project="vllm",
            version=str(base.version),
            cache=project.cache,
            offline=options.offline,
        )
    with log.stage("tag", "Computing the platform tag from the shared objects"):
        computed = platform_tag(published, plan.published.sha256, project.cache)
        tag = choose_tag(plan.platform, computed)
    with hold(options.out / ".lock", f"the folder {options.out}"):
        clear_leftovers(options.out)
        work = options.out / f".{wheel_name(plan.published.name, plan.version, tag)}.part"
        try:
            with log.stage("assemble", "Assembling the wheel"):
                made = assemble(project, plan, published, tag, work)
            with log.stage("check", "Checking every member"):
                check_wheel(work, version=plan.version, expected=made.expected)
            return finish(project, plan, options, log, work, made)
        finally:
            clear_leftovers(options.out)


def clear_leftovers(out: Path) -> None:
    """Remove what a killed or failed run left; the lock on the folder is held."""
    shutil.rmtree(out / STAGING, ignore_errors=True)
    for stale in out.glob(".*.part"):
        stale.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """What went into a wheel: its final name, its components and the content to check it by."""

    name: str
    components: tuple[Component, ...]
    expected: dict[str, str]


def choose_tag(asked: str | None, computed: str) -> str:
    """The computed tag, or a stricter one that was asked for."""
    if asked is None or asked == computed:
        return computed
    if glibc(asked) < glibc(computed):
        raise AuditError(
            f"--platform {asked}: the shared objects need {computed}",
            means="pip would install the wheel where it can't be loaded.",
            next=f"python build.py --platform {computed} ...",
        )
    return asked


def glibc(tag: str) -> tuple[int, int]:
    parts = tag.split("_")
    return int(parts[1]), int(parts[2])


def assemble(project: Project, plan: Plan, published: Path, tag: str, work: Path) -> Assembled:
    work.parent.mkdir(parents=True, exist_ok=True)
    check_disk(work.parent, published.stat().st_size + (64 << 20), f"a wheel in {work.parent}")
    files, before, removed = wheel_changes(store_of(project), plan)
    with zipfile.ZipFile(published) as archive:
        found = components(archive.namelist(), plan.series.patches)
    edit = Edit(
        version=plan.version,
        platform=tag,
        before=before,
        files=files,
        removed=frozenset(removed),
        record=record_files(plan, found, files, before, removed),
    )
    try:
        with work.open("wb") as target:
            write_wheel(published, target, edit)
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        raise disk_full(work.parent, f"the wheel could not be written: {error}") from None
    return Assembled(
        name=wheel_name(plan.published.name, plan.version, tag),
        components=found,
        expected={name: sha256(content) for name, content in files.items()},
    )


def finish(
    project: Project, plan: Plan, options: Options, log: Log, work: Path, made: Assembled
) -> Built:
    """Test the wheel under its real name, then move it and its report to where they belong."""
    staging = options.out / STAGING
    staging.mkdir(exist_ok=True)
    staged = staging / made.name
    work.replace(staged)
    try:
        outcome = tests(project, plan, options, log, staged)
    except TestsFailed as failure:
        kept = options.out / FAILED
        kept.mkdir(exist_ok=True)
        staged.replace(kept / made.name)
        failure.means += f" It is kept as {kept / made.name}."
        raise
    wheel = options.out / made.name
    report = report_of(plan, made, outcome, log, staged)
    staged.replace(wheel)
    shutil.rmtree(staging)
    text = json.dumps(report, indent=1) + "\n"
    path = wheel.with_name(wheel.name + ".build.json")
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return Built(wheel=wheel, report=report)


def tests(project: Project, plan: Plan, options: Options, log: Log, wheel: Path) -> Outcome:
    if not options.test:
        return Outcome(skipped_why="--no-test was given")
    if plan.machine != machine_info.machine():
        why = f"the wheel is for {plan.machine}, this machine is {machine_info.machine()}"
        return Outcome(skipped_why=why)
    with log.stage("test", f"Testing {wheel.name}"):
        return test_wheel(
            project,
            plan.base,
            wheel,
            store=store_of(project),
            applied=plan.applied,
            torch=options.test_torch,
            python=options.python,
            offline=options.offline,
        )


def report_of(
    plan: Plan, made: Assembled, outcome: Outcome, log: Log, wheel: Path
) -> dict[str, Any]:
    with wheel.open("rb") as stream:
        found = file_digest(stream, "sha256").hexdigest()
    tag: Tag = next(iter(parse_wheel_filename(wheel.name)[3]))
    return {
        "schema": SCHEMA,
        "wheel": wheel.name,
        "sha256": found,
        "version": plan.version,
        "platform": tag.platform,
        "base": plan.base.tag,
        "arch": list(plan.arch.asked),
        "patchset_digest": plan.series.digest,
        "patches": [patch.path for patch in plan.series.patches],
        "components": [{"name": c.name, "action": c.action, "why": c.why} for c in made.components],
        "not_in_this_wheel": missing(plan, made.components),
        "stages": [asdict(stage) for stage in log.stages],
        "tests": asdict(outcome),
    }
