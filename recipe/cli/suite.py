# SPDX-License-Identifier: Apache-2.0
"""The project's own test suite: style, imports, types, recipe tests, wheels of bases asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipe.bases.releases import DEFAULT_ARCH, Base, Bases
from recipe.build import pipeline, workers
from recipe.cli.steps import steps
from recipe.compile.native.choice import Choice, Kind
from recipe.compile.native.wanted import NativeOptions
from recipe.ground import run
from recipe.ground.errors import TestsFailed
from recipe.ground.log import Log, say
from recipe.ground.project import Project


def run_suite(
    project: Project,
    bases: Bases,
    chosen: list[Base],
    *,
    torch: str | None,
    pytest: list[str],
    only: list[str],
) -> dict[str, Any]:
    """Run everything, then fail if anything did: one run shows all there is to mend.

    only: these steps alone; all where it is empty.
    """
    count = workers.workers()
    every = steps(pytest, count).items()
    commands = {name: one for name, one in every if not only or name in only}
    failed = []
    for name, command in commands.items():
        env = workers.environment(count)
        if run.show_together(command, cwd=project.root, env=env) != 0:
            failed.append(name)
    wheels = {}
    for base in chosen:
        try:
            wheels[base.tag] = test_base(project, bases, base, torch)
        except TestsFailed as failure:
            say(str(failure))
            failed.append(base.tag)
    for tag, counts in wheels.items():
        say(
            f"{tag}: {counts['passed']} passed, {counts['failed']} failed, "
            f"{counts['skipped']} skipped"
        )
    if failed:
        raise TestsFailed(
            f"failed: {', '.join(failed)}",
            next=f"python build.py test --step {failed[0]}"
            if failed[0] in commands and failed[0] != "recipe"
            else "python build.py test --step recipe -- -x -k NAME   # a test named above",
        )
    say("all passed")
    return {"steps": list(commands), "wheels": wheels}


def test_base(project: Project, bases: Bases, base: Base, torch: str | None) -> dict[str, Any]:
    """Build the base's wheel into the cache and give what its tests counted."""
    options = pipeline.Options(
        arch=DEFAULT_ARCH,
        platform="auto",
        source="auto",
        out=Path(project.cache / "suite"),
        offline=False,
        test=True,
        test_torch=torch,
        python=None,
        # Its tests are about the patched Python and the kernels; a compile takes hours.
        native=NativeOptions(choice=Choice(kind=Kind.NONE)),
    )
    built = pipeline.build(project, bases, base, options, Log())
    return dict(built.report["tests"])
