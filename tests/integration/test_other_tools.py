# SPDX-License-Identifier: Apache-2.0
"""git am, quilt and GNU patch make the same tree of the series as the recipe does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipe.config import Bases
from recipe.git import ISOLATED
from tests.recipe.repo import AM, WHO, Repository
from tests.recipe.world import Checkout

ENV = {**os.environ, **ISOLATED, **WHO}


@dataclass(frozen=True, kw_only=True)
class Applied:
    """The recipe's tree as a repository; patches in order, as absolute paths."""

    tag: str
    made: Repository
    head: str
    patches: tuple[Path, ...]
    sdist: Path

    @property
    def patched(self) -> str:
        """The commit of the last patch, before the overlay."""
        return self.made.text("rev-parse", f"{self.head}~1")


@pytest.fixture(scope="module", params=["v0.20.2", "v0.24.0", "v0.33.0"])
def applied(
    real: Checkout,
    bases: Bases,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Applied]:
    folder = tmp_path_factory.mktemp("applied")
    base = bases.find(request.param)
    done = real.good("apply", "--base", base.tag, "--tree", str(folder / "tree"), "--json")
    rows = done.document["commits"]
    assert rows[-1]["patch"] == "overlay"
    yield Applied(
        tag=base.tag,
        made=Repository(root=folder / "tree"),
        head=done.document["commit"],
        patches=tuple(real.root / "patches" / row["patch"] for row in rows[:-1]),
        sdist=real.cache / "downloads" / base.sdist.sha256 / base.sdist.name,
    )
    shutil.rmtree(folder)


def unpacked(applied: Applied, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(
        ["tar", "-xf", str(applied.sdist), "--strip-components=1", "-C", str(folder)], check=True
    )
    return folder


def differences(applied: Applied, work: Path) -> list[str]:
    """Paths in which a plain folder differs from the recipe's patched commit."""
    git = ["git", f"--git-dir={applied.made.root / '.git'}", f"--work-tree={work}"]
    subprocess.run([*git, "read-tree", applied.patched], check=True, env=ENV)
    status = [*git, "status", "--porcelain", "--untracked-files=all", "--ignored", "--no-renames"]
    against_index = subprocess.run(status, check=True, env=ENV, capture_output=True, text=True)
    # The first column compares index and HEAD, where the overlay is; the second is ours.
    rows = against_index.stdout.splitlines()
    return [row for row in rows if row[1] != " " and ".pc/" not in row]


def test_git_am_gives_the_same_tree(applied: Applied) -> None:
    made = applied.made
    made.git("checkout", "--quiet", "-B", "mailbox", f"base-{applied.tag}")

    made.git(*AM, *(str(path) for path in applied.patches))

    assert made.text("rev-parse", "HEAD^{tree}") == made.text(
        "rev-parse", applied.patched + "^{tree}"
    )
    assert int(made.text("rev-list", "--count", f"base-{applied.tag}..")) == len(applied.patches)


@pytest.mark.skipif(shutil.which("quilt") is None, reason="quilt is not installed")
def test_quilt_pushes_the_series_without_fuzz(
    real: Checkout, applied: Applied, tmp_path: Path
) -> None:
    if applied.tag == "v0.24.0":
        pytest.skip("the next test takes this base, with GNU patch alone")
    work = unpacked(applied, tmp_path / "work")
    root = real.root / "patches"
    series = tmp_path / "series"
    names = [path.relative_to(root).as_posix() for path in applied.patches]
    series.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    env = {**os.environ, "QUILT_PATCHES": str(root), "QUILT_SERIES": str(series)}

    pushed = subprocess.run(
        ["quilt", "--quiltrc=-", "push", "-a", "--fuzz=0"],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert pushed.stdout.count("Applying patch") == len(names)
    assert differences(applied, work) == []
    shutil.rmtree(work)


@pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed")
def test_gnu_patch_applies_the_series_without_fuzz(applied: Applied, tmp_path: Path) -> None:
    if applied.tag != "v0.24.0":
        pytest.skip("one base is enough: quilt, which calls GNU patch, takes the others")
    work = unpacked(applied, tmp_path / "work")
    (work / "left-over.txt").write_text("seen by the comparison\n", encoding="utf-8")
    assert differences(applied, work) != []
    (work / "left-over.txt").unlink()

    for path in applied.patches:
        with path.open("rb") as stream:
            command = ["patch", "-p1", "--fuzz=0", "--forward", "--no-backup-if-mismatch"]
            subprocess.run(command, cwd=work, stdin=stream, check=True, capture_output=True)

    assert differences(applied, work) == []
    shutil.rmtree(work)
