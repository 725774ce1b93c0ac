# SPDX-License-Identifier: Apache-2.0
"""Run the overlay's tests on the finished wheel, in an environment made for it.

What the tests need besides the wheel (torch, transformers, ...) is installed once per set of
requirements and kept in the cache; the wheel itself goes into a fresh environment each time, which
sees that set behind it. The test environment takes the base's own torch unless told otherwise.
"""

from __future__ import annotations

import os
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from recipe.bases.releases import Base
from recipe.build import workers
from recipe.compile.toolchain.python import find_python
from recipe.ground import run, scratch
from recipe.ground.environments import pip as pip_settings
from recipe.ground.environments.made import QUIET_PIP, Needs, dependencies, see_behind
from recipe.ground.errors import ConfigError, TestsFailed
from recipe.ground.project import Project
from recipe.objects.git import Store
from recipe.series.tree import Applied
from recipe.wheel import read

# Below the cache: what the tests measured of compiled kernels, by a digest of what decides it.
KEPT = "kernel-code"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Counts of one run; skipped_why is set where nothing was run."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    torch: str = ""
    python: str = ""
    skipped_why: str = ""


def test_wheel(
    project: Project,
    base: Base,
    wheel: Path,
    *,
    store: Store,
    applied: Applied,
    torch: str | None,
    python: str | None,
    offline: bool,
) -> Outcome:
    """Install `wheel` and run tests/overlay and tests/patched on it; TestsFailed if one fails."""
    interpreter, version = find_python(base, python)
    needs = Needs(
        python=version, torch=torch or base.torch, requirements=requirements(project, base, wheel)
    )
    shelf = dependencies(project, interpreter, needs, offline=offline)
    with scratch.folder(project.cache, "test") as folder:
        environment = fresh_environment(interpreter, folder / "venv", shelf, wheel)
        trees = {"SM12X_TREE": applied.head, "SM12X_PRISTINE": applied.base}
        variables = {"SM12X_BASE": str(base.version), "SM12X_KEPT": str(project.cache / KEPT)}
        for variable, commit in trees.items():
            tree = folder / variable.lower()
            tree.mkdir()
            store.export(commit, tree)
            variables[variable] = str(tree)
        outcome = run_pytest(project, environment, shelf, folder, variables, needs)
    if outcome.failed:
        raise TestsFailed(
            f"{outcome.failed} of {outcome.passed + outcome.failed} tests failed on {wheel.name}",
            means="The lines above name them. The wheel was not put where tested wheels go.",
            next=f"python build.py --base {base.tag} --no-test   # builds it all the same",
        )
    if not outcome.passed:
        raise TestsFailed(
            f"no test ran on {wheel.name}",
            means="A wheel is only called tested when tests ran on it.",
            next="look at the lines above for why they were skipped",
        )
    return outcome


def requirements(project: Project, base: Base, wheel: Path) -> tuple[str, ...]:
    """tests/wheel-env.toml for this base; the wheel's METADATA gives the versions of `names`."""
    path = project.root / "tests" / "wheel-env.toml"
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["environment"]
    fitting = [e for e in entries if SpecifierSet(e["bases"]).contains(base.version)]
    if len(fitting) != 1:
        raise ConfigError(
            f"tests/wheel-env.toml has {len(fitting)} environments for {base.tag}, not one",
            next="mend the `bases` ranges there",
        )
    pinned = wheel_requirements(wheel)
    chosen = []
    for name in map(canonicalize_name, fitting[0]["names"]):
        if name not in pinned:
            raise ConfigError(
                f"tests/wheel-env.toml: {base.tag}'s wheel doesn't require {name}",
                next="move it to `extra` there",
            )
        chosen.append(pinned[name])
    return (*chosen, *fitting[0].get("extra", []))


def wheel_requirements(wheel: Path) -> dict[str, str]:
    """Requires-Dist of a wheel by name, without markers and extras that don't hold here."""
    with read.opened(wheel) as archive:
        name = f"{read.dist_info(archive)}/METADATA"
        metadata = read.content_of(archive, wheel, name, read.LARGEST_TEXT)
    found: dict[str, str] = {}
    try:
        for line in metadata.decode().partition("\n\n")[0].splitlines():
            if line.startswith("Requires-Dist: "):
                requirement = Requirement(line.removeprefix("Requires-Dist: "))
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    requirement.marker = None
                    found[canonicalize_name(requirement.name)] = str(requirement)
    except ValueError as error:
        raise read.no_wheel(wheel, f"{name}: {error}") from None
    return found


def fresh_environment(interpreter: str, folder: Path, shelf: Path, wheel: Path) -> Path:
    """A new environment with the wheel installed by pip and the shelf of dependencies behind."""
    try:
        run.output([interpreter, "-m", "venv", "--without-pip", str(folder)])
        see_behind(folder, shelf)
        python = folder / "bin" / "python"
        pip = [str(shelf / "bin" / "python"), "-m", "pip", "--python", str(python)]
        options = ["--no-deps", "--no-index", "--no-compile", "--force-reinstall"]
        told = pip_settings.environment()
        run.output([*pip, "install", *QUIET_PIP, *options, str(wheel)], cwd=folder, env=told)
    except run.CommandFailed as error:
        if run.is_full(folder):
            raise run.disk_full(folder, "the wheel could not be installed for its tests") from None
        raise TestsFailed(
            f"pip can't install {wheel.name}: {error.stderr.strip()}",
            next=f"python build.py --base ... --no-test, then try it by hand: pip install {wheel}",
        ) from None
    return python


def run_pytest(
    project: Project,
    python: Path,
    shelf: Path,
    folder: Path,
    variables: dict[str, str],
    needs: Needs,
) -> Outcome:
    report = folder / "report.xml"
    count = workers.workers()
    tests = [str(project.root / "tests" / name) for name in ("overlay", "patched")]
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
    ]
    command += ["-c", os.devnull, "-rs", f"--junitxml={report}", *workers.options(count), *tests]
    # The tools the tests ask for (cmake) are the environment's, not those of the machine.
    path = os.pathsep.join([str(python.parent), str(shelf / "bin"), os.environ.get("PATH", "")])
    # Half a minute of compiling torch and transformers, if their bytecode may not be kept.
    env = {**variables, "PATH": path, "PYTHONDONTWRITEBYTECODE": "", **workers.environment(count)}
    status = run.show_together(command, cwd=folder, env=env)
    if not report.exists():
        raise TestsFailed(
            f"pytest ended with {status} before it ran a test",
            next="look at the lines above",
        )
    outcome = read_report(report, needs)
    if status not in (0, 1) and not outcome.failed:
        raise TestsFailed(f"pytest ended with {status}", next="look at the lines above")
    return outcome


def read_report(path: Path, needs: Needs) -> Outcome:
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
        names = ("tests", "failures", "errors", "skipped")
        every, failures, errors, skipped = (
            sum(int(suite.get(name, "0")) for suite in suites) for name in names
        )
    except (ElementTree.ParseError, ValueError) as error:
        raise TestsFailed(
            f"pytest's report can't be read: {error}",
            means="So it is unknown which tests passed.",
            next="run the same command again",
        ) from None
    failed = failures + errors
    return Outcome(
        passed=every - failed - skipped,
        failed=failed,
        skipped=skipped,
        torch=needs.torch,
        python=needs.python,
    )
