# SPDX-License-Identifier: Apache-2.0
"""Whether an extension finds what it needs among the libraries that are installed.

As the recipe does it for what it compiles, but by reading the files alone, and where the machine
that serves looks: torch's and NVIDIA's packages, which torch loads first, then the system's.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .elf import Object, read

# What the interpreter and the graphics driver bring when the extension is loaded.
_LOADED_LATER = re.compile(r"_?Py[A-Z_]|cu[A-Z]")
_DRIVERS = re.compile(r"libcuda\.so|libnvidia-ml\.so|ld-linux")
# Names that only torch defines: its C++ namespaces, and its interface in C.
_TORCHS = re.compile(r"_ZN?[KTVIS]*\d*(?:N[K]?)?(?:3c10|2at|5torch)|aoti_torch_|torch_")
TORCHS_LIBRARIES = re.compile(r"libtorch|libc10")
_SYSTEM = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/usr/local/cuda/lib64")


@dataclass(frozen=True, kw_only=True)
class Lacks:
    """What one extension doesn't find, of `wanted` names; `libraries` that are nowhere."""

    name: str
    symbols: tuple[str, ...]
    wanted: int
    libraries: tuple[str, ...]


def places(site: Iterable[Path]) -> tuple[Path, ...]:
    """Return the folders of libraries: of packages below `site`, then of the system."""
    found = []
    for folder in site:
        found += [folder / "torch" / "lib", *sorted(folder.glob("nvidia/*/lib"))]
    found += [Path(word) for word in os.environ.get("LD_LIBRARY_PATH", "").split(":") if word]
    found += [Path(word) for word in _configured()] + [Path(word) for word in _SYSTEM]
    for word in ("/lib", "/usr/lib"):
        found += sorted(Path(word).glob("*-linux-gnu*"))
    return tuple(dict.fromkeys(folder for folder in found if folder.is_dir()))


def _configured() -> Iterator[str]:
    """The folders of ld.so.conf(5)'s files."""
    for file in sorted(Path("/etc/ld.so.conf.d").glob("*.conf")):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            continue
        yield from (line.strip() for line in lines if line.startswith("/"))


class Libraries:
    """The libraries in some folders, each read once."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        """Look in `folders`, the first of a name counts."""
        self._folders = folders
        self._read: dict[str, Object | None] = {}

    def find(self, name: str) -> Object | None:
        """Return the library of this name, None if no folder has it."""
        if name not in self._read:
            path = next((f / name for f in self._folders if (f / name).is_file()), None)
            self._read[name] = read(path) if path else None
        return self._read[name]

    def _is_nowhere(self, name: str) -> bool:
        return not (_DRIVERS.match(name) or any((f / name).is_file() for f in self._folders))

    def lacks(self, extension: Path, package: Path) -> Lacks | None:
        """Return what an extension doesn't find, None if that is nothing or it can't be read.

        A name counts only if every library was found, or if it is one that only torch has: what
        another library would bring isn't known without it.
        """
        own = read(extension)
        if own is None:
            return None
        wanted = {name for name in own.wanted if not _LOADED_LATER.match(name)}
        left, absent = set(wanted), [name for name in own.needed if self._is_nowhere(name)]
        direct = tuple(absent)
        waiting = list(own.needed)
        seen = set(waiting)
        while waiting and left:
            name = waiting.pop(0)
            library = self.find(name)
            if library is None:
                absent += [name] * self._is_nowhere(name)
                continue
            left -= library.defined
            waiting += [further for further in library.needed if further not in seen]
            seen.update(library.needed)
        if not all(TORCHS_LIBRARIES.match(name) for name in absent):
            left = {name for name in left if _TORCHS.match(name)}
        if not left and not direct:
            return None
        return Lacks(
            name=str(extension.relative_to(package)),
            symbols=tuple(sorted(left)),
            wanted=len(wanted),
            libraries=direct,
        )
