# SPDX-License-Identifier: Apache-2.0
"""Packages of the index that carry an inner source: where no git host can be reached.

NVIDIA's own package of CUTLASS ends at 4.2.0, and no pinned release uses that. FlashInfer ships the
headers it compiles with at run time; its wheel is pinned by hash, and the version they name must be
the one that is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recipe.bases.releases import Archive, InnerPin
from recipe.compile.inner.cmake import CUTLASS_CMAKE
from recipe.ground.errors import SourceError
from recipe.objects.gate.names import Entry
from recipe.objects.ids import tree_id
from recipe.wheel.read import opened

PARTS = ("include/", "tools/util/include/", "python/cutlass_library/")
VERSION = "include/cutlass/version.h"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A wheel that carries a source, and the folder in it. tree: what `package_entries` gives."""

    project: str
    version: str
    archive: Archive
    folder: str
    tree: str


PACKAGES = {
    ("cutlass", "v4.4.2"): Package(
        project="flashinfer-python",
        version="0.6.8.post1",
        archive=Archive(
            name="flashinfer_python-0.6.8.post1-py3-none-any.whl",
            sha256="818f9b8cc2fe66c42a1f6264be4841ac8821ada703685a02cfccb2b5124a710b",
        ),
        folder="flashinfer/data/cutlass/",
        tree="37f5d5e7c6d4ee9df3b9531f4d31b63df3c5932a",
    ),
}


def package_for(pin: InnerPin) -> Package | None:
    return PACKAGES.get((pin.name, pin.pin))


def package_entries(package: Package, wheel: Path) -> Iterator[Entry]:
    """CUTLASS's headers out of a wheel, with what its CMakeLists.txt would tell vLLM's."""
    with opened(wheel) as archive:
        for name in archive.namelist():
            path = name.removeprefix(package.folder)
            if path != name and path.startswith(PARTS) and not name.endswith("/"):
                yield Entry(path=path, mode="100644", content=archive.read(name))
    yield Entry(path="CMakeLists.txt", mode="100644", content=CUTLASS_CMAKE.encode())


def check_package(package: Package, entries: Iterable[Entry]) -> None:
    found = tree_id(entries)
    if found != package.tree:
        raise SourceError(
            f"{package.archive.name} gives the tree {found}; {package.tree} is pinned",
            means="Nothing was compiled of it.",
            next=f"remove {package.archive.name} from the cache and run again",
        )


def check_version(pin: InnerPin, origin: str, content: bytes | None) -> None:
    """CUTLASS's version.h must name the version of a pin like v4.4.2."""
    text = (content or b"").decode(errors="replace")
    parts = [
        re.search(rf"define CUTLASS_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")
    ]
    found = ".".join(match[1] if match else "?" for match in parts)
    if f"v{found}" != pin.pin:
        raise SourceError(
            f"{origin} has CUTLASS {found}; {pin.pin} is pinned",
            means="Headers of another version may compile, and into other code.",
            next=f"name a folder with {pin.pin}: --sources cutlass=PATH",
        )
