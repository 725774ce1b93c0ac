# SPDX-License-Identifier: Apache-2.0
"""A world with three releases, whose one module drifts, and three patches on them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tests.recipe.next_release import add_release
from tests.recipe.repo import Repository, numbered
from tests.recipe.world import Done, World

TAGS = ("v9.1.0", "v9.2.0", "v9.3.0")
SERIES = """\
# The order

# First group
vllm/one.patch
vllm/two.patch # on top of one

# Last group
vllm/three.patch
"""


def model(tag: str, **changed: str) -> bytes:
    """model.py of a release: line 1 drifts in 9.2, line 30 in 9.3; then line_N is replaced."""
    lines = numbered(40).decode().splitlines()
    if tag >= "v9.2":
        lines[0:1] = ["line 1", "line 1 and a half"]
    if tag >= "v9.3":
        lines[lines.index("line 30")] = "line 30 drifted"
    for name, text in changed.items():
        lines[lines.index(name.replace("_", " "))] = text
    return "".join(f"{line}\n" for line in lines).encode()


def add_releases(world: World) -> None:
    """Pin 9.1.0, 9.2.0 and 9.3.0 and give the world three patches and two overlay files."""
    for tag in TAGS[1:]:
        add_release(world, tag.removeprefix("v"), {"vllm/model.py": model(tag)})
    one = {"line_8": "ours 8"}
    two = {**one, "line_20": "ours 20"}
    edit = world.upstream.patch
    world.add_patch("one.patch", edit({"vllm/model.py": model(TAGS[0], **one)}, Topic="one"))
    world.add_patch("two.patch", edit({"vllm/model.py": model(TAGS[0], **two)}, Topic="two"))
    world.add_patch("three.patch", edit({"vllm/envs.py": b"ours\n"}, Topic="three"))
    (world.root / "series.txt").write_text(SERIES, encoding="utf-8")
    world.add_overlay("vllm/ours.py", b"ours = 1\n")
    world.add_overlay("tools/run-it", b"#!/bin/sh\n").chmod(0o755)


def tree(world: World, tag: str = TAGS[-1], *options: str) -> Repository:
    """What `apply` writes for the release, outside the project."""
    folder = world.root.parent / f"tree-{tag}"
    shutil.rmtree(folder, ignore_errors=True)
    world.good("apply", "--base", tag, "--tree", str(folder), *options)
    return Repository(root=folder)


def refresh(world: World, made: Repository, *options: str) -> Done:
    return world.run("refresh", "--tree", str(made.root), *options)


def written(world: World) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file that refresh may write."""
    files = [world.root / "series.txt", *(world.root / "patches").rglob("*")]
    return {
        path.relative_to(world.root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
        if path.is_file()
    }


def read_patch(world: World, name: str) -> str:
    return (world.root / "patches" / "vllm" / f"{name}.patch").read_text(encoding="utf-8")


def amend(made: Repository, subject: str, edit: dict[str, bytes | None], **words: str) -> None:
    """Change the commit with this subject, and its message by replacement; rebase the others."""
    commits = made.text("log", "--format=%H %s", "--reverse", "base-" + tag_of(made) + "..")
    rows = [row.split(" ", 1) for row in commits.splitlines()]
    position = next(i for i, row in enumerate(rows) if row[1] == subject)
    made.git("checkout", "--quiet", "--detach", rows[position][0])
    made.write(edit)
    made.git("add", "--all", "--force")
    text = made.text("log", "-1", "--format=%B")
    for old, new in words.items():
        text = text.replace(f"{old}: ", f"{old}: {new}\nOld-{old}: ")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("Old-"))
    made.git("commit", "--quiet", "--amend", "-m", text)
    made.git("rebase", "--quiet", "--onto", "HEAD", rows[position][0], "sm12x")


def tag_of(made: Repository) -> str:
    return made.text("tag", "--list", "base-*").removeprefix("base-")


def copy(made: Repository, folder: Path) -> Repository:
    shutil.copytree(made.root, folder, symlinks=True)
    return replace(made, root=folder)
