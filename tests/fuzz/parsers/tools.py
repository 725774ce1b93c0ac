# SPDX-License-Identifier: Apache-2.0
"""What other programs say: git, compilers, ninja and CMake, readelf, pip, the kernel, pytest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from recipe.build import testing
from recipe.compile import deepgemm
from recipe.compile.inner import git as inner
from recipe.compile.native import whole
from recipe.compile.toolchain import (
    compiler_cache,
    host_compiler,
    jobs,
    rust,
    sccache,
    symbols,
    toolkit,
)
from recipe.follow import upstreamed
from recipe.ground.environments import pip
from recipe.ground.environments.made import Needs
from recipe.objects import git, threeway
from recipe.objects.gate import trees
from tests.fuzz.parser import Parser, saying

ID = "ab" * 20
NEEDS = Needs(python="3.12", torch="2.11.0", requirements=())


class Unsafe(Exception):
    """What the gate says of a name."""


def git_says(read: Callable[[git.Store], object], *then: bytes) -> Callable[[bytes, Path], object]:
    """A reader of the real store's, whose git says this; then: what it says after it."""

    def told(content: bytes, folder: Path) -> None:
        with saying(content, *then):
            read(git.Store(path=folder / "store.git"))

    return told


def tree(store: git.Store) -> None:
    trees.check_tree(store, ID, lambda name, why: Unsafe(name, why))


def links(store: git.Store) -> None:
    inner.gitlinks(store, ID)


def submodules(store: git.Store) -> None:
    known = {"csrc/cutlass": ID, "third": ID}
    inner.submodules_of(store, ID, "https://host.example/a/b.git", known)


def changes(store: git.Store) -> None:
    store.changes(ID, ID)


def merge(content: bytes, folder: Path) -> None:
    """merge-tree's answer; git diff then says the rest of it."""
    said, _, rest = content.partition(b"\n\n")
    with saying(rest):
        store = git.Store(path=folder / "store.git")
        found = threeway.merged_tree(said)
        threeway.read_conflicts(store, said, found, ID)


def blobs(store: git.Store) -> None:
    deepgemm.read_all(store, ID, ["vllm/a.py", "vllm/b.py"])


def ids(store: git.Store) -> None:
    upstreamed.commit_ids(store, "a..b", ())


def lines(store: git.Store) -> None:
    store.find_line(ID, b"x = 1")
    upstreamed.grep(store, "x", ID)


def compilers(content: bytes, folder: Path) -> None:
    """What a compiler says of itself, whoever asks."""
    with saying(content):
        toolkit.nvcc_version(folder / "nvcc")
        host_compiler.compiler_version("c++")
        host_compiler.gcc_version("c++")


def object_tables(content: bytes, folder: Path) -> None:
    with saying(content):
        list(symbols.symbols(folder / "x.so")), symbols.needed(folder / "x.so")


def commands(content: bytes, folder: Path) -> None:
    (folder / "temp.linux").mkdir()
    (folder / "temp.linux" / "compile_commands.json").write_bytes(content)
    whole.compiled_for(folder)


COMMANDS = [
    {
        "directory": "/build",
        "command": "nvcc -gencode arch=compute_120f,code=sm_120f -c /tree/a.cu",
        "file": "/tree/a.cu",
        "output": "CMakeFiles/_C.dir/csrc/a.cu.o",
    }
]


def cache_log(content: bytes, folder: Path) -> None:
    (folder / "log").write_bytes(content)
    compiler_cache.logged(folder / "log")


class Server:
    """A server that runs."""

    def poll(self) -> None:
        return None


def cache_statistics(content: bytes, folder: Path) -> None:
    with saying(content):
        found = sccache.statistics("sccache", {}, Server())  # type: ignore[arg-type]
        sccache.counted(found, "")
    sccache.reason(content.decode("utf-8", "replace"))


STATISTICS = {
    "stats": {
        "cache_hits": {"counts": {"C/C++": 3, "CUDA": 4}},
        "cache_misses": {"counts": {"CUDA": 1}},
        "cache_errors": {"counts": {}},
        "cache_write_errors": 0,
    }
}


def kernel_says(content: bytes, folder: Path) -> None:
    proc, groups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    group = groups / "a"
    group.mkdir(parents=True)
    parts = [*content.split(b"\n\n"), *[b""] * 7]
    places = [proc / "meminfo", proc / "self" / "cgroup", proc / "vmstat", group / "cpu.max"]
    places += [group / name for name in ("memory.max", "memory.current", "memory.stat")]
    for path, part in zip(places, parts, strict=False):
        path.write_bytes(part)
    jobs.free_memory(proc, groups)
    jobs.processors(proc, groups)
    jobs.killed_for_memory(proc)


KERNEL = b"""\
MemTotal: 100 kB
MemAvailable: 90 kB

0::/a

oom_kill 3

200000 100000

1000000

5000

inactive_file 100
"""


def pip_says(content: bytes, folder: Path) -> None:
    pip.settings.cache_clear()
    with saying(content):
        pip.settings()
    pip.settings.cache_clear()


def test_report(content: bytes, folder: Path) -> None:
    path = folder / "report.xml"
    path.write_bytes(content)
    testing.read_report(path, NEEDS)


REPORT = b"""<?xml version="1.0"?><testsuites><testsuite name="pytest" errors="0" failures="1"
skipped="2" tests="9" time="1.5"><testcase name="a"/></testsuite></testsuites>"""


def cargo_says(content: bytes, folder: Path) -> None:
    rust.reason(content.decode("utf-8", "replace"))


ROWS = (
    b"100644 blob %s      12\ta.py\x00120000 blob %s       4\tl\x00"
    b"160000 commit %s       -\tsub\x00"
)
PARSERS = (
    Parser(
        name="git-tree",
        read=git_says(tree, b"a.py"),
        refuses=(Unsafe,),
        made=lambda: [ROWS % ((ID.encode(),) * 3)],
    ),
    Parser(
        name="git-links",
        read=git_says(links),
        made=lambda: [b"160000 commit %s\tcsrc/cutlass\0" % ID.encode()],
    ),
    Parser(
        name="git-submodules",
        read=git_says(submodules),
        made=lambda: [
            b"submodule.a.path\ncsrc/cutlass\0submodule.a.url\n../../nvidia/cutlass.git\0"
        ],
    ),
    Parser(name="git-changes", read=git_says(changes), made=lambda: [b"M\0vllm/a.py\0A\0b\0"]),
    Parser(
        name="git-merge",
        read=merge,
        made=lambda: [
            ID.encode()
            + b"\0"
            + b"100644 %s 1\ta.py\0\0" % ID.encode()
            + b"1\0a.py\0CONFLICT (contents)\0Merge conflict in a.py\n\0"
            + b"\n\ndiff --git a/a.py b/a.py\n@@ -1,0 +2,3 @@\n+<<<<<<< a\n+=\n+>>>>>>>\n"
        ],
    ),
    Parser(
        name="git-blobs",
        read=git_says(blobs),
        made=lambda: [b"%s blob 2\na\n\n%s blob 0\n\n" % ((ID.encode(),) * 2)],
    ),
    Parser(
        name="git-patch-ids",
        read=git_says(ids),
        made=lambda: [b"%s %s\n" % ((ID.encode(),) * 2)],
    ),
    Parser(name="git-lines", read=git_says(lines), made=lambda: [b"commit:vllm/a.py:3:x = 1\n"]),
    Parser(
        name="compiler-version",
        read=compilers,
        made=lambda: [b"13.2.0\n", b"Cuda compilation tools, release 13.0, V13.0.88\n"],
    ),
    Parser(name="object-tables", read=object_tables),
    Parser(name="compile-commands", read=commands, made=lambda: [json.dumps(COMMANDS).encode()]),
    Parser(name="ccache-log", read=cache_log, made=lambda: [b"direct_cache_hit\ncache_miss\n"]),
    Parser(
        name="sccache-statistics",
        read=cache_statistics,
        made=lambda: [json.dumps(STATISTICS).encode()],
    ),
    Parser(name="kernel-files", read=kernel_says, made=lambda: [KERNEL]),
    Parser(
        name="pip-settings",
        read=pip_says,
        made=lambda: [b"global.index-url='https://index.example/simple'\n:env:.timeout='9'\n"],
    ),
    Parser(name="test-report", read=test_report, made=lambda: [REPORT]),
    Parser(name="cargo-errors", read=cargo_says, made=lambda: [b"error: no\nCaused by:\n  x\n"]),
)
