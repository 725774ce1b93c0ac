# SPDX-License-Identifier: Apache-2.0
"""Import the entries of an archive or a folder into the object store, as one commit.

They go straight into ``git fast-import``, each through the gate of names: nothing is unpacked
anywhere. Author and date are fixed, so the same archive gives the same commit id on every machine.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable

from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.objects.gate.names import Entry, Gate
from recipe.objects.git import EPOCH, IDENTITY, ISOLATED, Store

# Source trees are read often and kept for a while: a fast pack beats a small one.
FAST_IMPORT = ["git", "-c", "core.compression=1", "fast-import"]
FAST_IMPORT += ["--quiet", "--force", "--done", "--depth=0"]


def import_entries(store: Store, entries: Iterable[Entry], ref: str, message: str) -> str:
    """Write the entries as one commit without parent, point `ref` at it and give its id."""
    env = {**ISOLATED, "GIT_DIR": str(store.path)}
    process = run.feed(FAST_IMPORT, env=env)
    stream = run.stdin_of(process)
    modes: dict[str, tuple[str, int]] = {}
    try:
        for mark, entry in enumerate(Gate(refuse=refused).through(entries), 1):
            stream.write(b"blob\nmark :%d\ndata %d\n" % (mark, len(entry.content)))
            stream.write(entry.content + b"\n")
            modes[entry.path] = (entry.mode, mark)
        text = message.encode()
        who = f"{IDENTITY[0]} <{IDENTITY[1]}> {EPOCH}"
        stream.write(f"commit {ref}\nauthor {who}\ncommitter {who}\n".encode())
        stream.write(b"data %d\n%s\ndeleteall\n" % (len(text), text))
        for path, (mode, mark) in sorted(modes.items()):
            stream.write(f"M {mode} :{mark} {quoted(path)}\n".encode())
        stream.write(b"\ndone\n")
        stream.close()
    except BrokenPipeError:
        pass  # fast-import ended early and says why on its standard error
    except BaseException:
        # A bad member or Ctrl-C: fast-import mustn't take the end of its input for the whole.
        process.kill()
        close(process)
        raise
    finish_import(store, process)
    commit = store.commit_of(ref)
    assert commit is not None
    return commit


def finish_import(store: Store, process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    problem = process.stderr.read().decode(errors="replace")
    close(process)
    if run.check_alive(FAST_IMPORT, process.returncode) == 0:
        return
    if run.is_full(store.path):
        raise run.disk_full(store.path, "the source tree could not be stored")
    raise SourceError(
        f"the source could not be imported: git fast-import ended with {process.returncode}: "
        f"{problem.strip()[:500]}",
        means="The object store is as it was.",
        next="python build.py doctor",
    )


def close(process: subprocess.Popen[bytes]) -> None:
    """Close what leads to a process and wait for its end."""
    with contextlib.suppress(BrokenPipeError):  # it may be gone, with bytes still on their way
        run.stdin_of(process).close()
    assert process.stderr is not None
    process.stderr.close()
    process.wait()


def quoted(path: str) -> str:
    """As git's stream of commands has a path; the gate has let no other letter need it."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def refused(name: str, why: str) -> SourceError:
    return SourceError(
        f"the source's {name} {why}",
        means="Nothing of the source was kept.",
        next="mend it there, or take the pinned archive: --source sdist",
    )
