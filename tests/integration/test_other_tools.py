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

from recipe.bases.releases import Bases
from recipe.objects.git import ISOLATED
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


def differences(applied: Applied, work: Path, commit: str) -> list[str]:
    """Paths in which a plain folder differs from a commit of the recipe's tree."""
    git = ["git", f"--git-dir={applied.made.root / '.git'}", f"--work-tree={work}"]
    subprocess.run([*git, "read-tree", commit], check=True, env=ENV)
    status = [*git, "status", "--porcelain", "--untracked-files=all", "--ignored", "--no-renames"]
    against_index = subprocess.run(status, check=True, env=ENV, capture_output=True, text=True)
    # The first column compares index and HEAD; the second one, ours, compares files and index.
    rows = against_index.stdout.splitlines()
    return [row for row in rows if row[1] != " " and ".pc/" not in row]


def test_git_am_makes_the_patched_tree_of_an_export(
    real: Checkout, applied: Applied, tmp_path: Path
) -> None:
    folder = tmp_path / "mails"
    real.good("export", "--base", applied.tag, "--git", str(folder))
    made = applied.made
    made.git("checkout", "--quiet", "-B", "mailbox", f"base-{applied.tag}")

    made.git(*AM, *(str(path) for path in sorted(folder.iterdir())))

    assert made.text("rev-parse", "HEAD^{tree}") == made.text("rev-parse", applied.head + "^{tree}")
    commits = int(made.text("rev-list", "--count", f"base-{applied.tag}.."))
    assert commits == len(applied.patches) + 1


@pytest.mark.skipif(shutil.which("quilt") is None, reason="quilt is not installed")
def test_quilt_pushes_an_export_on_the_sdist_and_pops_it(
    real: Checkout, applied: Applied, tmp_path: Path
) -> None:
    if applied.tag == "v0.24.0":
        pytest.skip("the next test takes this base, with GNU patch alone")
    folder = tmp_path / "patches"
    real.good("export", "--base", applied.tag, "--quilt", str(folder))
    work = unpacked(applied, tmp_path / "work")
    env = {**os.environ, "QUILT_PATCHES": str(folder)}

    def quilt(*words: str) -> str:
        command = ["quilt", "--quiltrc=-", *words]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pushed = quilt("push", "-a", "--fuzz=0")
    assert pushed.count("Applying patch") == len(applied.patches) + 1
    assert differences(applied, work, applied.head) == []

    quilt("pop", "-a")
    assert differences(applied, work, f"base-{applied.tag}") == []
    shutil.rmtree(work)


@pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed")
def test_gnu_patch_applies_the_series_without_fuzz(applied: Applied, tmp_path: Path) -> None:
    if applied.tag != "v0.24.0":
        pytest.skip("one base is enough: quilt, which calls GNU patch, takes the others")
    work = unpacked(applied, tmp_path / "work")
    (work / "left-over.txt").write_text("seen by the comparison\n", encoding="utf-8")
    assert differences(applied, work, applied.patched) != []
    (work / "left-over.txt").unlink()

    for path in applied.patches:
        with path.open("rb") as stream:
            command = ["patch", "-p1", "--fuzz=0", "--forward", "--no-backup-if-mismatch"]
            subprocess.run(command, cwd=work, stdin=stream, check=True, capture_output=True)

    assert differences(applied, work, applied.patched) == []
    shutil.rmtree(work)
