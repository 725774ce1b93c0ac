# SPDX-License-Identifier: Apache-2.0
"""Import an archive or a folder into the object store, without unpacking it anywhere.

The members go straight into ``git fast-import``, so nothing can be written outside the store; names
and links are checked all the same, since the tree is checked out later. The commit has a fixed
author and date: the same archive gives the same commit id on every machine.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.objects import foreign
from recipe.objects.git import EPOCH, IDENTITY, ISOLATED, Store

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 1 << 30
MAX_TOTAL_BYTES = 8 << 30
# Source trees are read often and kept for a while: a fast pack beats a small one.
FAST_IMPORT = ["git", "-c", "core.compression=1", "fast-import"]
FAST_IMPORT += ["--quiet", "--force", "--done", "--depth=0"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file for the tree: git's mode and the bytes (for a link, where it points)."""

    path: str
    mode: str
    content: bytes


def tar_entries(archive: Path) -> Iterator[Entry]:
    """The files of a source archive, without its top folder; SourceError for anything unsafe."""
    total = 0
    try:
        with tarfile.open(archive, "r:*", encoding="utf-8") as tar:
            for number, member in enumerate(tar):
                total += member.size
                if (
                    number > MAX_MEMBERS
                    or total > MAX_TOTAL_BYTES
                    or member.size > MAX_MEMBER_BYTES
                ):
                    raise unsafe(archive, member.name, "is past the size or number allowed")
                path = member_path(archive, member.name)
                if member.isdir() or path == "":
                    continue
                if member.issym():
                    check_link(archive, path, member.linkname)
                    yield Entry(path=path, mode="120000", content=os.fsencode(member.linkname))
                elif member.isreg():
                    stream = tar.extractfile(member)
                    assert stream is not None
                    mode = "100755" if member.mode & stat.S_IXUSR else "100644"
                    yield Entry(path=path, mode=mode, content=stream.read())
                else:
                    raise unsafe(archive, member.name, "is a hard link, a device or a pipe")
    except (tarfile.TarError, EOFError, OSError) as error:
        if run.is_full(archive.parent):
            raise
        raise SourceError(
            f"{archive.name} can't be read: {error}",
            means="It is damaged, or it isn't a source archive.",
            next=f"remove {archive} and run again",
        ) from None


def member_path(archive: Path, name: str) -> str:
    """The name below the archive's one top folder, '' for that folder itself."""
    parts = name.rstrip("/").split("/")
    if parts[0] == ".":
        parts = parts[1:]
    if name.startswith("/") or not parts:
        raise unsafe(archive, name, "has an absolute or empty name")
    odd = any(c in "\0\n\\" or "\ud800" <= c <= "\udfff" for c in name)  # not UTF-8: a surrogate
    if odd or {"", ".", "..", ".git"} & set(parts):
        raise unsafe(archive, name, "has a name that leaves the tree or that git can't hold")
    return "/".join(parts[1:])


def check_link(archive: Path, path: str, target: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in target):
        raise unsafe(archive, path, f"is a link to a name that isn't UTF-8, {target!r}")
    resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if target.startswith("/") or resolved == ".." or resolved.startswith("../"):
        raise unsafe(archive, path, f"is a link out of the tree, to {target}")


def folder_entries(folder: Path) -> Iterator[Entry]:
    """The files of a folder: what git tracks or would track there, else every file."""
    if (folder / ".git").exists():
        names = [name for name in os.fsdecode(foreign.listed(folder)).split("\0") if name]
    else:
        names = [
            (Path(root) / file).relative_to(folder).as_posix()
            for root, _, files in os.walk(folder)
            for file in files
        ]
    for name in sorted(names):
        path = folder / name
        if path.is_symlink():
            target = str(path.readlink())
            check_link(folder, name, target)
            yield Entry(path=name, mode="120000", content=os.fsencode(target))
        elif path.is_file():
            # As the file is, whether or not its disk allows programs.
            mode = "100755" if path.stat().st_mode & stat.S_IXUSR else "100644"
            yield Entry(path=name, mode=mode, content=path.read_bytes())


def import_entries(store: Store, entries: Iterator[Entry], ref: str, message: str) -> str:
    """Write the entries as one commit without parent, point `ref` at it and give its id."""
    env = {**ISOLATED, "GIT_DIR": str(store.path)}
    process = run.feed(FAST_IMPORT, env=env)
    stream = run.stdin_of(process)
    modes: dict[str, tuple[str, int]] = {}
    try:
        for mark, entry in enumerate(entries, 1):
            check_encoded(entry.path)
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


def check_encoded(path: str) -> None:
    """Patches, the series and a wheel's RECORD name files in UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SourceError(
            f"the source has a file whose name isn't UTF-8: {os.fsencode(path)!r}",
            means="No patch could name it. Nothing of the source was kept.",
            next="rename it, or take the pinned archive: --source sdist",
        ) from None


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
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unsafe(archive: Path, name: str, why: str) -> SourceError:
    return SourceError(
        f"{archive.name}: member {name!r} {why}",
        means="The archive is refused as a whole; nothing of it was kept.",
        next="get the archive from the package index again, and compare its hash with bases.toml",
    )
