# SPDX-License-Identifier: Apache-2.0
"""Write the series of one base for other tools: a quilt folder, or mails for ``git am``.

The patches are copied as they are; the overlay becomes a last patch, so that what the other tool
makes of the folder is the patched tree.
"""

from __future__ import annotations

from pathlib import Path

from recipe import scratch
from recipe.git import Store
from recipe.plan import Series
from recipe.tree import Applied

OVERLAY = "overlay.patch"


def export_quilt(store: Store, series: Series, applied: Applied, target: Path) -> list[str]:
    """``patches/`` as quilt and Debian have it: the files and a ``series``; gives their names."""
    files = {patch.path.replace("/", "-"): patch.content for patch in series.patches}
    files |= overlay_patch(store, applied, "")
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


def overlay_patch(store: Store, applied: Applied, prefix: str) -> dict[str, bytes]:
    if not applied.commits or applied.commits[-1][0] != "overlay":
        return {}
    return {prefix + OVERLAY: store.format_patch(applied.head)}


def write_files(target: Path, option: str, files: dict[str, bytes]) -> None:
    with scratch.whole(target, option) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
