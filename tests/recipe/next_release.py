# SPDX-License-Identifier: Apache-2.0
"""Further releases of the small upstream, and the series moved between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.recipe import small
from tests.recipe.repo import Repository, numbered
from tests.recipe.world import Done, World

LINES = numbered(40)


def add_release(world: World, version: str, files: Mapping[str, bytes | None]) -> str:
    """Publish and pin a release whose tree differs from the first one's by `files`; its tag."""
    commit = f"{sum(version.encode()):09x}"
    named = small.VERSION_FILE.replace(small.COMMIT.encode(), commit.encode())
    changed = {"vllm/_version.py": named.replace(b"9.1.0", version.encode()), **files}
    tree = {**small.TREE, **changed}
    kept = {name: content for name, content in tree.items() if content is not None}
    sdist = small.make_sdist(kept, version)
    name = f"vllm-{version}.tar.gz"
    world.index.add("vllm", name, sdist)
    text = small.bases_toml(sdist, world.wheels, tag=f"v{version}", commit=commit)
    block = text[text.index("[[base]]") :].replace(small.SDIST, name)
    with (world.root / "bases.toml").open("a", encoding="utf-8") as bases:
        bases.write("\n" + block)
    return f"v{version}"


def edited(content: bytes, old: bytes, new: bytes) -> bytes:
    """`content` with one place changed."""
    assert content.count(old) == 1, old
    return content.replace(old, new)


def files_of(world: World) -> dict[str, bytes]:
    """The series as it is on the disk: series.txt and every patch."""
    paths = [world.root / "series.txt", *sorted((world.root / "patches").rglob("*.patch"))]
    return {path.relative_to(world.root).as_posix(): path.read_bytes() for path in paths}


def trailer(world: World, name: str, trailer: str) -> str | None:
    """A trailer of patches/vllm/`name`; None if it has none of that name."""
    for line in (world.root / "patches" / "vllm" / name).read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{trailer}: "):
            return line.partition(": ")[2]
    return None


def patched(world: World, tag: str) -> Repository:
    """The patched tree of a release, as `apply` writes it."""
    folder = world.root.parent / f"patched-{tag}"
    world.good("apply", "--base", tag, "--tree", str(folder))
    return Repository(root=folder)


def rebase(world: World, *args: str) -> Done:
    return world.run("rebase", "--json", *args)


def stopped_tree(world: World) -> Path:
    return world.root / ".rebase" / "tree"
