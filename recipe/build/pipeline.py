# SPDX-License-Identifier: Apache-2.0
"""The main job: plan, fetch, assemble, check, test, and only then put the wheel into dist/."""

from __future__ import annotations

import json
import os
import platform as machine_info
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from recipe.bases.download import fetch
from recipe.bases.releases import Base, Bases
from recipe.bases.sources import store_of
from recipe.build.edit import edit_of, extensions_of
from recipe.build.plan import Plan, make_plan, wanted
from recipe.build.testing import Outcome, test_wheel
from recipe.compile.native.stage import Native, as_report, carry_out
from recipe.compile.native.wanted import NativeOptions
from recipe.compile.toolchain.python import find_python
from recipe.ground import scratch
from recipe.ground.digest import sha256, sha256_of
from recipe.ground.errors import AuditError, MachineError, TestsFailed
from recipe.ground.lock import hold_folder
from recipe.ground.log import Log
from recipe.ground.project import Project
from recipe.ground.run import check_disk, disk_full, output
from recipe.wheel import sign, statement
from recipe.wheel.check import binaries_tag, check_wheel, platform_tag, tag_of
from recipe.wheel.components import Component
from recipe.wheel.record import missing
from recipe.wheel.write import wheel_name, write_wheel

SCHEMA = 1
REPORT = ".build.json"  # behind a wheel's name
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
    native: NativeOptions
    sign_key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished wheel and its report (the document of ``build --json``)."""

    wheel: Path
    report: dict[str, Any]


def build(project: Project, bases: Bases, base: Base, options: Options, log: Log) -> Built:
    scratch.check_writable(options.out, "--out")
    if options.sign_key:
        sign.try_out(options.sign_key, project.cache)
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
    native = carry_out(project, wanted(plan, options.native), published, log)
    with log.stage("tag", "Computing the platform tag from the shared objects"):
        tag = choose_tag(plan.platform, computed_tag(project, plan, published, native))
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        hold_folder(options.out, project.cache, f"the folder {options.out}"),
        scratch.beside(options.out / "vllm-sm12x") as staging,
    ):
        work = staging / wheel_name(plan.published.name, plan.version, tag)
        with log.stage("assemble", "Assembling the wheel"):
            made = assemble(project, plan, published, native, tag, work)
        with log.stage("check", "Checking every member"):
            check_wheel(work, version=plan.version, expected=made.expected)
        return finish(project, plan, options, log, work, made, native)


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """What went into a wheel: its final name, its components and the content to check it by."""

    name: str
    components: tuple[Component, ...]
    expected: dict[str, str]


def computed_tag(project: Project, plan: Plan, published: Path, native: Native) -> str:
    """What all shared objects allow: upstream's, and those that were compiled here."""
    if native.whole:
        return tag_of(native.whole.built.wheel)
    tag = platform_tag(published, plan.published.sha256, project.cache)
    if native.binaries:
        tag = max(tag, binaries_tag(native.binaries, plan.machine, project.cache), key=glibc)
    return tag


def choose_tag(asked: str | None, computed: str) -> str:
    """The computed tag, or a stricter one that was asked for."""
    least = glibc(computed)
    if asked is None or asked == computed:
        return computed
    if glibc(asked) < least:
        raise AuditError(
            f"--platform {asked}: the shared objects need {computed}",
            means="pip would install the wheel where it can't be loaded.",
            next=f"python build.py --platform {computed} ...",
        )
    return asked


def glibc(tag: str) -> tuple[int, int]:
    """(2, 28) of ``manylinux_2_28_x86_64``; MachineError for a tag that promises no glibc."""
    found = re.match(r"manylinux_(\d+)_(\d+)_", tag)
    if found is None:
        raise MachineError(
            f"auditwheel has no manylinux tag for the compiled extensions, only {tag}",
            means="They need symbols of a glibc or libstdc++ newer than any it knows, most often "
            "this machine's own: pip would install the wheel where it can't be loaded.",
            next="compile on an older distribution, such as the image of the Dockerfile: "
            "docker build --output dist . ; or take upstream's binaries: --native none",
        )
    return int(found[1]), int(found[2])


def assemble(
    project: Project, plan: Plan, published: Path, native: Native, tag: str, work: Path
) -> Assembled:
    check_disk(work.parent, published.stat().st_size + (64 << 20), f"a wheel in {work.parent}")
    made = edit_of(project, plan, published, extensions_of(native, plan), tag)
    try:
        with work.open("wb") as target:
            write_wheel(made.wheel, target, made.edit)
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        raise disk_full(work.parent, f"the wheel could not be written: {error}") from None
    return Assembled(
        name=wheel_name(plan.published.name, plan.version, tag),
        components=made.components,
        expected={name: sha256(content) for name, content in made.edit.files.items()}
        | {name: sha256_of(path) for name, path in native.binaries.items()},
    )


def finish(
    project: Project,
    plan: Plan,
    options: Options,
    log: Log,
    staged: Path,
    made: Assembled,
    native: Native,
) -> Built:
    """Test the wheel under its real name, then move it and its report to where they belong."""
    try:
        outcome = tests(project, plan, options, log, staged)
    except TestsFailed as failure:
        kept = options.out / FAILED
        kept.mkdir(exist_ok=True)
        staged.replace(kept / made.name)
        failure.means += f" It is kept as {kept / made.name}."
        raise
    wheel = options.out / made.name
    report = report_of(plan, made, native, outcome, log, staged)
    text = (json.dumps(report, indent=1) + "\n").encode()
    # All that may fail is done before the first file is where it belongs.
    stated = state(plan, options, staged, report, text)
    staged.replace(wheel)
    scratch.write_whole(wheel.with_name(wheel.name + REPORT), text)
    beside = statement.beside(wheel)
    for suffix in sign.SUFFIX.values():  # of another statement
        beside.with_name(beside.name + suffix).unlink(missing_ok=True)
    for path in stated:
        path.replace(wheel.with_name(path.name))
    return Built(wheel=wheel, report=report)


def state(
    plan: Plan, options: Options, wheel: Path, report: Mapping[str, Any], text: bytes
) -> list[Path]:
    """Write the statement beside a wheel, and sign it if a key was named; the files of both."""
    path = statement.beside(wheel)
    content = statement.statement(
        plan,
        subject={wheel.name: report["sha256"]},
        asked={
            "base": plan.base.tag,
            "arch": options.arch,
            "platform": report["platform"],
            "native": options.native.choice.text,
            "source": plan.source.origin,
        },
        tools={
            "auditwheel": version_of("auditwheel"),
            "git": output(["git", "--version"]).decode().split()[-1],
            "python": machine_info.python_version(),
        },
        report={wheel.name + REPORT: sha256(text)},
        tests=report["tests"],
    )
    scratch.write_whole(path, content)
    return [path, *([sign.sign(path, options.sign_key)] if options.sign_key else [])]


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
    plan: Plan, made: Assembled, native: Native, outcome: Outcome, log: Log, wheel: Path
) -> dict[str, Any]:
    tag: Tag = next(iter(parse_wheel_filename(wheel.name)[3]))
    return {
        "schema": SCHEMA,
        "wheel": wheel.name,
        "sha256": sha256_of(wheel),
        "version": plan.version,
        "platform": tag.platform,
        "base": plan.base.tag,
        "arch": list(plan.arch.asked),
        "patchset_digest": plan.series.digest,
        "patches": [patch.path for patch in plan.series.patches],
        "components": [{"name": c.name, "action": c.action, "why": c.why} for c in made.components],
        "native": as_report(native),
        "not_in_this_wheel": missing(plan, made.components),
        "stages": [asdict(stage) for stage in log.stages],
        "tests": asdict(outcome),
    }
