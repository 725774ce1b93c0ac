# SPDX-License-Identifier: Apache-2.0
"""Rooms stay small and say what they are for; an import against the rule is seen by the suite."""

from __future__ import annotations

import ast
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from recipe.cli.steps import OVERLAY, steps
from tests.recipe.world import CHECKOUT

ROOMS = sorted(path.parent for path in (CHECKOUT / "recipe").rglob("__init__.py"))
# With __init__.py. What is larger wants another room inside.
MODULES = 14


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code of the recipe and of the overlay, and the rule, to break."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("recipe", OVERLAY):
        shutil.copytree(CHECKOUT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    return tmp_path


def checked(root: Path) -> tuple[int, str]:
    """How the suite's check of a checkout ends, and what it says, without its line breaks."""
    done = subprocess.run(
        steps([])["imports"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.returncode, " ".join(done.stdout.split())


def append(root: Path, module: str, text: str) -> None:
    with (root / module).open("a", encoding="utf-8") as code:
        code.write(f"\n{text}\n")


def test_all_keep_the_rule(copy: Path) -> None:
    status, said = checked(copy)

    assert status == 0, said
    assert " 0 broken" in said


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("ground/run.py", "from recipe.series.patch import Patch", "stand on one another"),
        ("objects/git.py", "from recipe.bases import sources", "stand on one another"),
        # No import may wait for a call, or be there for annotations alone.
        ("series/tree.py", "def f():\n    from recipe.wheel import write", "stand on one another"),
        ("gpu/arch.py", "if TYPE_CHECKING:\n    import recipe.build.plan", "stand on one another"),
        # Beside each other.
        ("wheel/record.py", "from recipe.follow.moved import moved", "stand on one another"),
        ("compile/stale.py", "from recipe.follow.moved import moved", "knows nothing of how"),
        # Inside of one package.
        ("follow/matrix/table.py", "from recipe.follow.rebase import state", "Following upstream"),
        ("compile/toolchain/rust.py", "from recipe.compile.inner import git", "Compiling: tools"),
        ("cli/series/lint.py", "from recipe.cli.bases import run_bases", "knows no other verb"),
    ],
)
def test_an_import_against_the_rule_is_seen(
    copy: Path, module: str, line: str, broken: str
) -> None:
    append(copy, f"recipe/{module}", line)

    status, said = checked(copy)

    assert status == 1, said
    report = said.partition("Broken contracts")[2]
    assert broken in report, said
    assert f"recipe.{module.removesuffix('.py').replace('/', '.')} -> recipe." in report, said


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("layouts/pages.py", "from ..kernels import tiles", "rooms stand on one another"),
        ("support/route.py", "from ..ops import flash_mla", "rooms stand on one another"),
        ("ops/checks.py", "def f():\n    from .. import loading", "rooms stand on one another"),
        ("doctor/report.py", "from ..mla import select", "rooms stand on one another"),
        ("loading/facts/node.py", "from ..files import pages", "Loading: the seams ask"),
        ("loading/stream/lazy.py", "from ..window import spans", "Loading: the seams ask"),
        ("loading/policy.py", "from .gather import gather", "Loading: the seams ask"),
    ],
)
def test_an_import_of_the_overlay_against_the_rule_is_seen(
    copy: Path, module: str, line: str, broken: str
) -> None:
    append(copy, f"{OVERLAY}/vllm/sm12x/{module}", line)

    status, said = checked(copy)

    assert status == 1, said
    assert broken in said.partition("Broken contracts")[2], said


@pytest.mark.parametrize(
    "line",
    [
        "import importlib\n\nimportlib.import_module('recipe.cli.main')",
        "from importlib import import_module\n\nimport_module('recipe.cli.main')",
    ],
)
def test_an_import_that_no_rule_would_see_is_refused(copy: Path, line: str) -> None:
    (copy / "recipe" / "ground" / "hidden.py").write_text(f"{line}\n", encoding="utf-8")
    command = [*steps([])["lint"][:4], "recipe/ground/hidden.py"]

    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "TID251" in done.stdout, done.stdout


def test_two_modules_of_a_package_that_import_each_other_are_seen(copy: Path) -> None:
    append(copy, "recipe/ground/errors.py", "from recipe.ground import run")

    status, said = checked(copy)

    assert status == 1, said
    assert "No cycles are allowed in recipe.ground" in said


def test_a_new_package_must_find_its_place(copy: Path) -> None:
    (copy / "recipe" / "elsewhere").mkdir()
    (copy / "recipe" / "elsewhere" / "__init__.py").touch()

    status, said = checked(copy)

    assert status == 1, said
    assert "recipe.elsewhere" in said


def test_the_recipe_itself_holds_packages_alone() -> None:
    assert {path.name for path in ROOMS[0].glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", ROOMS[1:], ids=lambda room: room.name)
def test_a_room_is_small_and_says_what_it_does_takes_and_gives(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    lines = text.splitlines()

    assert len([*room.glob("*.py")]) <= MODULES
    assert [line.partition(" ")[0] for line in lines[1:]] == ["Takes", "Gives"], text


def test_no_two_modules_for_a_wheel_have_one_name() -> None:
    """They run without packages around them, where a name stands for one file."""
    names = [
        {path.name for path in (CHECKOUT / "tests" / folder).glob("*.py")} - {"conftest.py"}
        for folder in ("overlay", "patched")
    ]
    assert not names[0] & names[1]


def test_every_folder_with_tests_is_one_that_pytest_enters(pytestconfig: pytest.Config) -> None:
    tests = CHECKOUT / "tests"
    passed_by = pytestconfig.getini("norecursedirs")
    folders = {
        part for path in tests.rglob("test_*.py") for part in path.parent.relative_to(tests).parts
    }
    assert {"build", "recipe"} <= folders
    assert [f for f in sorted(folders) for pattern in passed_by if fnmatch(f, pattern)] == []
