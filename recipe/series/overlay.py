# SPDX-License-Identifier: Apache-2.0
"""The files laid on the upstream tree: those of overlay/ and those made from the pins."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass

from recipe.bases.releases import Base
from recipe.ground.digest import sha256
from recipe.ground.project import Project
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
    """The files of overlay/`upstream`, sorted by path, without compiled and backup files."""
    root = project.overlay / upstream
    files = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if (
            not path.is_file()
            or "__pycache__" in relative.parts
            or path.name.endswith((".pyc", "~"))
        ):
            continue
        mode = "100755" if path.stat().st_mode & stat.S_IXUSR else "100644"
        files.append(OverlayFile(path=relative.as_posix(), content=path.read_bytes(), mode=mode))
    return tuple(files)


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
