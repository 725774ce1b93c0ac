# SPDX-License-Identifier: Apache-2.0
"""Which headers a source may take in, by its text alone.

Every ``#include`` counts, whatever condition it stands under, so the answer is never too small.
Headers outside of the given roots (CUDA, torch, the system) are left out: their version is part of
the build environment's.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include(?:_next)?[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>)', re.M)
# A name made by the preprocessor can be any header: then all beside the source count.
COMPUTED = re.compile(rb"^[ \t]*#[ \t]*include[ \t]+[A-Za-z_]", re.M)
HEADERS = frozenset({".h", ".hpp", ".cuh", ".hh", ".inl", ".inc"})


class Closure:
    """Reads each file below `roots` once."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = tuple(roots)
        self.read: dict[Path, tuple[str, tuple[tuple[str, bool], ...], bool]] = {}
        self.found: dict[tuple[Path, str, tuple[Path, ...] | None], Path | None] = {}

    def of(self, source: Path, folders: tuple[Path, ...]) -> dict[Path, str]:
        """The source and every header it may take in below the roots, with their sha256."""
        inside = tuple(f for f in folders if self.below(f))
        seen: dict[Path, str] = {}
        waiting = [source]
        while waiting:
            path = waiting.pop()
            if path in seen or not path.is_file():
                continue
            digest, included, computed = self.scan(path)
            seen[path] = digest
            for name, quoted in included:
                target = self.resolve(path.parent, name, quoted, inside)
                if target is not None:
                    waiting.append(target)
            if computed:
                waiting += [p for p in path.parent.iterdir() if p.suffix in HEADERS]
        return seen

    def below(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self.roots)

    def scan(self, path: Path) -> tuple[str, tuple[tuple[str, bool], ...], bool]:
        if path not in self.read:
            content = path.read_bytes()
            included = tuple(
                ((quoted or angled).decode(errors="replace"), bool(quoted))
                for quoted, angled in INCLUDE.findall(content)
            )
            digest = hashlib.sha256(content).hexdigest()
            self.read[path] = digest, included, bool(COMPUTED.search(content))
        return self.read[path]

    def resolve(
        self, beside: Path, name: str, quoted: bool, folders: tuple[Path, ...]
    ) -> Path | None:
        """The file of an include: beside the source first, if it is quoted, then by folders."""
        places = (beside, *folders) if quoted else folders
        for place in places:
            key = (place, name, None)
            if key not in self.found:
                path = Path(os.path.normpath(place / name))
                self.found[key] = path if path.is_file() else None
            target = self.found[key]
            if target is not None:
                return target
        return None
