# SPDX-License-Identifier: Apache-2.0
"""Write the series of one base for other tools: a quilt folder, or mails for ``git am``.

The patches are copied as they are; the overlay becomes a last patch, so that what the other tool
makes of the folder is the patched tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

from recipe.ground import scratch
from recipe.ground.errors import ConfigError
from recipe.objects.git import Store
from recipe.series.diff import outside_hunks
from recipe.series.patch import Patch, split_diff
from recipe.series.topics import Series
from recipe.series.tree import OVERLAY, Applied

OVERLAY_FILE = "overlay.patch"
# A name with a blank is quoted only for another reason, so GNU patch can't find its end.
TWO_NAMES = re.compile(rb'diff --git (?:"(?:[^"\\]|\\.)*"|[^" ]+) (?:"(?:[^"\\]|\\.)*"|[^" ]+)')


def export_quilt(store: Store, series: Series, applied: Applied, target: Path) -> list[str]:
    """``patches/`` as quilt and Debian have it: the files and a ``series``; gives their names."""
    files: dict[str, bytes] = {}
    for patch in series.patches:
        name = patch.path.replace("/", "-")
        if name in files or re.search(r"\s", name):
            raise unfit(f"patches/{patch.path}: quilt needs another name for it than {name!r}")
        for line, why in beyond_quilt(patch):
            raise unfit(f"patches/{patch.path}:{line}: {why}")
        files[name] = patch.content
    for content in overlay_patch(store, applied, "").values():
        for line, why in binaries(content):
            raise unfit(f"the overlay as a patch, line {line}: {why}")
        files[OVERLAY] = content
    listing = "".join(f"{name}\n" for name in files).encode()
    write_files(target, "--quilt", {**files, "series": listing})
    return list(files)


def export_git(store: Store, series: Series, applied: Applied, target: Path) -> list[str]:
    """Numbered mails in the order ``git am`` takes them from ``DIR/*.patch``; gives their names."""
    names = [patch.path.replace("/", "-") for patch in series.patches]
    files = {
        f"{number:04}-{name}": patch.content
        for number, (name, patch) in enumerate(zip(names, series.patches, strict=True), 1)
    }
    files |= overlay_patch(store, applied, f"{len(files) + 1:04}-")
    write_files(target, "--git", files)
    return list(files)


def beyond_quilt(patch: Patch) -> Iterator[tuple[int, str]]:
    """Line and reason for what GNU patch, which quilt calls, can't do or does otherwise."""
    yield from binaries(patch.content)
    for one, other in permutations(patch.touched, 2):
        if other.startswith(one + "/"):
            yield 1, f"GNU patch can't put the file {one} and the folder in each other's place"
    _, first_line = split_diff(patch.content)
    start = 0
    for number, line in [*outside_hunks(patch.content, first_line), (0, b"diff --git a b")]:
        if line.startswith(b"@@ -"):
            start = 0
        elif line.startswith(b"diff --git "):
            if start:
                yield start, "GNU patch finds a name with a blank only where lines change"
            start = 0 if TWO_NAMES.fullmatch(line) else number


def binaries(content: bytes) -> Iterator[tuple[int, str]]:
    _, first_line = split_diff(content)
    for number, line in outside_hunks(content, first_line):
        if line == b"GIT binary patch":
            yield number, "GNU patch has no binary hunks"


def unfit(what: str) -> ConfigError:
    return ConfigError(
        what,
        means="Nothing was written; git am takes all of the series.",
        next="python build.py export --git DIR",
    )


def overlay_patch(store: Store, applied: Applied, prefix: str) -> dict[str, bytes]:
    if not applied.commits or applied.commits[-1][0] != OVERLAY:
        return {}
    return {prefix + OVERLAY_FILE: store.format_patch(applied.head)}


def write_files(target: Path, option: str, files: dict[str, bytes]) -> None:
    with scratch.whole(target, option) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
