# SPDX-License-Identifier: Apache-2.0
"""The files laid on the upstream tree: those of overlay/ and those made from the pins."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipe.bases.releases import Base
from recipe.ground.digest import sha256
from recipe.ground.errors import ConfigError
from recipe.ground.project import Project
from recipe.objects.gate.names import Gate, escaped
from recipe.series.patch import Patch

# Bump when the bytes that go into the digest change; old digests keep their name.
DIGEST = "sm12x-patchset-v1"
# The topic whose patches read the generated files.
PIN_TOPIC = "deepgemm-pin"


@dataclass(frozen=True, kw_only=True)
class OverlayFile:
    """A new file of the upstream tree. mode is git's: 100644 or 100755."""

    path: str
    content: bytes
    mode: str = "100644"


def read_overlay(project: Project, upstream: str) -> tuple[OverlayFile, ...]:
    """The files of overlay/`upstream`, sorted by path, without compiled and backup files.

    ConfigError for a link, which would bring in what it leads to, and for every name and kind of
    file that no tree may have.
    """
    root = project.overlay / upstream
    gate = Gate(refuse=lambda name, why: unfit(f"{root.parent.name}/{upstream}", name, why))
    files = []
    for path in sorted(found_below(root)):
        name = path.relative_to(root).as_posix()
        if path.name.endswith((".pyc", "~")):
            continue
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a link" if stat.S_ISLNK(status.st_mode) else "a pipe, a socket or a device"
            raise gate.refuse(escaped(name), f"is {kind}; the overlay holds files")
        # Not os.access: that asks whether this user may run it here, and on this disk.
        mode = "100755" if status.st_mode & stat.S_IXUSR else "100644"
        gate.admit(name, mode, status.st_size)
        files.append(OverlayFile(path=name, content=path.read_bytes(), mode=mode))
    gate.settle()
    return tuple(files)


def found_below(root: Path) -> Iterator[Path]:
    """Everything below a folder but the folders themselves; of Python's compiled files nothing."""

    def unreadable(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=unreadable if root.is_dir() else None):
        folders[:] = [name for name in folders if name != "__pycache__"]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in (*files, *links))


def unfit(where: str, name: str, why: str) -> ConfigError:
    return ConfigError(
        f"{where}: {name} {why}",
        means="Nothing was applied or built.",
        next=f"put a file in its place, or take it out of {where}",
    )


def generated_files(base: Base, patches: tuple[Patch, ...]) -> tuple[OverlayFile, ...]:
    """What the deepgemm-pin patches read: the base's DeepGEMM pin for CMake and for the shell."""
    if all(patch.topic != PIN_TOPIC for patch in patches):
        return ()
    pin = base.pin_of("deepgemm")
    head = f"# Written by the build from bases.toml ({base.tag}); change the pin there.\n"
    cmake = (
        f'set(SM12X_DEEPGEMM_REPOSITORY "{pin.repository}")\n'
        f'set(SM12X_DEEPGEMM_COMMIT "{pin.pin}")\n'
    )
    shell = f'DEEPGEMM_GIT_REPO="{pin.repository}"\nDEEPGEMM_GIT_REF="{pin.pin}"\n'
    return (
        OverlayFile(path="cmake/sm12x_pins.cmake", content=(head + cmake).encode()),
        OverlayFile(path="tools/sm12x_pins.sh", content=(head + shell).encode()),
    )


def patchset_digest(
    project: Project, patches: tuple[Patch, ...], upstreams: tuple[str, ...]
) -> str:
    """``sm12x-patchset-v1:<sha256>`` over the series' order, every patch and every overlay file.

    The hashed text is a JSON list of [kind, path, mode, sha256 of the content], series first, in
    series order, then the overlay files sorted by path, so that anybody can recompute it.
    """
    rows = [["patch", patch.path, "", sha256(patch.content)] for patch in patches]
    for upstream in upstreams:
        for file in read_overlay(project, upstream):
            rows.append(["overlay", f"{upstream}/{file.path}", file.mode, sha256(file.content)])
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)
    return f"{DIGEST}:{sha256(text.encode())}"
