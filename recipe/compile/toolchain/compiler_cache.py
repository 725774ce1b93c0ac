# SPDX-License-Identifier: Apache-2.0
"""What stands in front of each compiler: what was compiled once isn't compiled again.

Here is ccache, on this machine's disk; sccache.py beside it has the one that machines share. An
object's key must not depend on where a tree lies, or a second build tree of the same sources
would miss: paths below the work folder are made relative, and the working directory is left out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recipe.ground.errors import MachineError

LIMIT = "20G"
HITS = frozenset({"direct_cache_hit", "preprocessed_cache_hit"})
MISSES = frozenset({"cache_miss"})


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Compiles that were answered from a cache and those that were not. note: what a reader of the
    report must know besides, such as a shared cache that couldn't be reached."""

    hits: int
    misses: int
    note: str = ""

    def __str__(self) -> str:
        whole = self.hits + self.misses
        share = 100 * self.hits / whole if whole else 0
        said = f"{self.hits} of {whole} from the compiler's cache ({share:.0f} %)"
        return f"{said}; {self.note}" if self.note else said


@dataclass(frozen=True, kw_only=True)
class CompilerCache:
    """tool: the launcher's path. variables: what it is told. count: what this build found.

    serves: whether a server starts the compilers, so that they aren't among our own processes.
    """

    tool: str
    variables: dict[str, str]
    count: Callable[[], Hits]
    serves: bool = False


def ccache(asked: str, cache: Path, work: Path) -> CompilerCache | None:
    """ccache for compiles below `work`, unless `asked` is none or (auto) the machine lacks it."""
    if asked == "none":
        return None
    tool = shutil.which("ccache")
    if tool is None:
        if asked == "auto":
            return None
        raise MachineError(
            "ccache is not on the PATH",
            next="apt-get install ccache   # or compile without: --compiler-cache none",
        )
    log = work / "ccache.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    variables = {
        "CCACHE_BASEDIR": str(work),
        "CCACHE_NOHASHDIR": "1",
        # A toolkit from packages is laid out anew now and then; its programs stay the same.
        "CCACHE_COMPILERCHECK": "content",
        "CCACHE_STATSLOG": str(log),
    }
    if "CCACHE_DIR" not in os.environ:
        variables |= {"CCACHE_DIR": str(cache / "ccache"), "CCACHE_MAXSIZE": LIMIT}
    return CompilerCache(tool=tool, variables=variables, count=lambda: logged(log))


def hits(cache: CompilerCache) -> Hits:
    """What this build found so far."""
    return cache.count()


def logged(log: Path) -> Hits:
    """ccache writes each compile's result on a line of its log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return Hits(
        hits=sum(line in HITS for line in lines), misses=sum(line in MISSES for line in lines)
    )
