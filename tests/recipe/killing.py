# SPDX-License-Identifier: Apache-2.0
"""A verb run once for each git that it starts, and that git killed: what comes of it.

The runs are forks of one process that has imported the recipe, since there are hundreds of them.
"""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recipe.world import World

# It counts the calls in a file and ends itself, as the system ends a process that takes too much.
WRAPPER = """\
#!/bin/sh
exec 9>>"$KILL_COUNT"
flock 9
echo >&9
calls=$(wc -l <"$KILL_COUNT")
flock -u 9
exec 9>&-
if [ "$calls" = "$KILL_AT" ]; then
  {end}
fi
exec {git} "$@"
"""
ENDS = {"itself": "kill -KILL $$", "its child": "sh -c 'kill -KILL $$'; exit $?"}
DRIVER = """\
import os, shutil, sys
from hashlib import sha256
from pathlib import Path
root, cache, kept, results, count, first, last, *arguments = sys.argv[1:]
from recipe.cli.main import main

def once(number, name, at):
    child = os.fork()
    if child == 0:
        os.chdir(root)
        os.environ["KILL_AT"] = str(at)
        for stream, suffix in ((1, "out"), (2, "err")):
            file = os.open(f"{results}/{number}.{name}.{suffix}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.dup2(file, stream)
        status = 99
        try:
            status = main(list(arguments))
        except SystemExit as end:
            status = end.code
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def restore():
    for place in (root, cache):
        for path in Path(place).iterdir():
            if path.name != "recipe":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(f"{kept}/{Path(place).name}", place, symlinks=True, dirs_exist_ok=True)

number = int(first)
while last == "" or number <= int(last):
    restore()
    Path(count).write_bytes(b"")
    killed = once(number, "killed", number)
    calls = len(Path(count).read_bytes())
    left = [path for place in (root, cache) for path in sorted(Path(place).rglob("*"))
        if path.is_file() and "store.git" not in path.parts and path.suffix != ".lock"
        and not {"recipe", "downloads", "audit"} & set(path.parts)]
    text = "".join(f"{path} {sha256(path.read_bytes()).hexdigest()}\\n" for path in left)
    Path(f"{results}/{number}.left").write_text(text)
    again = once(number, "again", 0) if number % 6 == 1 or calls < number else ""
    Path(f"{results}/{number}.status").write_text(f"{killed} {calls} {again}")
    if calls < number:
        break
    number += 1
"""


@dataclass(frozen=True, kw_only=True)
class Again:
    status: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A verb with one git killed.

    left: the files of the project and of the cache after it, with their hashes, but for the object
    store's own and what says nothing of git: downloads, and a published wheel's tag. again: the
    same verb after it with every git alive, of every sixth run.
    """

    number: int
    status: int
    out: str
    err: str
    left: str
    again: Again | None


def killed_at_every_call(
    world: World, arguments: Sequence[str], *, end: str = "itself", last: int | None = None
) -> list[Run]:
    """The runs of a verb with its first git killed, its second, and so on up to `last`, or until
    a run has none to be killed."""
    place = world.root.parent
    bin = place / "bin"
    results = place / "results"
    kept = place / "kept"
    for folder in (bin, results, kept):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for folder in (world.root, world.cache):
        but = shutil.ignore_patterns("recipe")
        shutil.copytree(folder, kept / folder.name, symlinks=True, ignore=but)
    wrapper = bin / "git"
    wrapper.write_text(WRAPPER.format(end=ENDS[end], git=shutil.which("git")), encoding="utf-8")
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    count = place / "count"
    env = world.environment({"KILL_COUNT": str(count), "KILL_AT": "0"})
    env["PATH"] = f"{bin}:{env['PATH']}"
    command = [sys.executable, "-c", DRIVER, str(world.root), str(world.cache), str(kept)]
    command += [str(results), str(count), "1", "" if last is None else str(last), *arguments]
    subprocess.run(command, env=env, check=True, capture_output=True, cwd=place)
    numbers = sorted(int(path.stem) for path in results.glob("*.status"))
    return [run_of(results, number) for number in numbers]


def run_of(results: Path, number: int) -> Run:
    def said(name: str) -> str:
        return (results / f"{number}.{name}").read_text(encoding="utf-8")

    killed, _, *more = said("status").split()
    again = None
    if more:
        again = Again(status=int(more[0]), out=said("again.out"), err=said("again.err"))
    return Run(
        number=number,
        status=int(killed),
        out=said("killed.out"),
        err=said("killed.err"),
        left=said("left"),
        again=again,
    )


def answer(text: str) -> Any:
    """A document without what differs from run to run."""
    document = json.loads(text)
    document.pop("stages", None)
    return document
