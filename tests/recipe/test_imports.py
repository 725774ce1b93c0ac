# SPDX-License-Identifier: Apache-2.0
"""The rule of one-way imports holds, and a breach of it is seen by the suite's own command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from recipe.cli.steps import steps
from tests.recipe.world import CHECKOUT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The recipe's code and the rule, to break."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "recipe", tmp_path / "recipe", ignore=ignore)
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    return tmp_path


def checked(root: Path) -> tuple[int, str]:
    """How the suite's check of a checkout ends, and what it says, without its line breaks."""
    done = subprocess.run(
        steps([])["imports"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.returncode, " ".join(done.stdout.split())


def append(root: Path, module: str, text: str) -> None:
    with (root / "recipe" / module).open("a", encoding="utf-8") as code:
        code.write(f"\n{text}\n")


def test_the_recipe_keeps_the_rule(copy: Path) -> None:
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
    append(copy, module, line)

    status, said = checked(copy)

    assert status == 1, said
    report = said.partition("Broken contracts")[2]
    assert broken in report, said
    assert f"recipe.{module.removesuffix('.py').replace('/', '.')} -> recipe." in report, said


def test_two_modules_of_a_package_that_import_each_other_are_seen(copy: Path) -> None:
    append(copy, "ground/errors.py", "from recipe.ground import run")

    status, said = checked(copy)

    assert status == 1, said
    assert "No cycles are allowed in recipe.ground" in said


def test_a_new_package_must_find_its_place(copy: Path) -> None:
    (copy / "recipe" / "elsewhere").mkdir()
    (copy / "recipe" / "elsewhere" / "__init__.py").touch()

    status, said = checked(copy)

    assert status == 1, said
    assert "recipe.elsewhere" in said
