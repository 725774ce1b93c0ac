# SPDX-License-Identifier: Apache-2.0
"""Whether a compiled extension finds every symbol it needs, by the symbol tables alone.

It tells before a wheel is made what would fail when the extension is loaded, for other processors
than this machine's as well.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from recipe.compile.toolchain.target import TARGETS
from recipe.ground import run
from recipe.ground.errors import AuditError, MachineError

# What the interpreter and the graphics driver bring when the extension is loaded.
LOADED_LATER = re.compile(r"_?Py[A-Z_]|cu[A-Z]")
PLAIN = {"LC_ALL": "C"}
NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
ROW = re.compile(r"^\s*\d+:\s+[0-9a-f]+\s+\S+\s+(\S+)\s+(\S+)\s+\S+\s+(\S+)\s+(\S+)")


def check_symbols(extension: Path, folders: Iterable[Path]) -> None:
    """AuditError names what neither the libraries it needs nor the interpreter have."""
    places = tuple(folders)
    wanted = {name for name, defined in symbols(extension) if not defined}
    wanted = {name for name in wanted if not LOADED_LATER.match(name)}
    absent = []
    for library in closure(extension, places):
        if not wanted:
            return
        if isinstance(library, str):
            absent.append(library)
        else:
            wanted -= {name for name, defined in symbols(library) if defined}
    if wanted:
        raise AuditError(
            f"{extension.name} needs symbols that nothing has: {', '.join(sorted(wanted)[:3])}"
            + (f" and {len(wanted) - 3} more" if len(wanted) > 3 else ""),
            means="It can't be loaded with the torch it was compiled for"
            + (f"; not found on this machine: {', '.join(absent)}." if absent else "."),
            next="compile it anew from an empty folder: SM12X_CACHE=DIR python build.py ...",
        )


def closure(extension: Path, folders: tuple[Path, ...]) -> Iterator[Path | str]:
    """The libraries an extension needs, and those that they need; a name where one isn't found."""
    waiting = list(needed(extension))
    seen = set(waiting)
    while waiting:
        name = waiting.pop(0)
        found = next((f / name for f in folders if (f / name).exists()), None)
        if found is None:
            yield name
            continue
        yield found
        for further in needed(found):
            if further not in seen:
                seen.add(further)
                waiting.append(further)


def needed(path: Path) -> list[str]:
    said = run.output([readelf(), "--dynamic", "--wide", str(path)], env=PLAIN)
    return NEEDED.findall(said.decode(errors="replace"))


def symbols(path: Path) -> Iterator[tuple[str, bool]]:
    """(name, defined) of the dynamic symbols; what is weak and undefined may stay so."""
    said = run.output([readelf(), "--dyn-syms", "--wide", str(path)], env=PLAIN)
    for line in said.decode(errors="replace").splitlines():
        match = ROW.match(line)
        if match is None:
            continue
        binding, _, section, name = match.group(2), match.group(1), match.group(3), match.group(4)
        name = name.partition("@")[0]
        if section != "UND":
            yield name, True
        elif binding != "WEAK":
            yield name, False


def readelf() -> str:
    """Its path; any machine's reads the tables of every other. MachineError if there is none."""
    names = ["readelf", *(f"{target.triple}-readelf" for target in TARGETS.values())]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise MachineError(
            "readelf is not on the PATH",
            means="What is compiled is checked with it, symbol by symbol, before it is used.",
            next="apt-get install binutils   # or: --native none",
        )
    return found
