# SPDX-License-Identifier: Apache-2.0
"""The only place that starts a process."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from recipe.ground.ended import CommandFailed as CommandFailed
from recipe.ground.ended import Killed as Killed
from recipe.ground.ended import check_alive as check_alive
from recipe.ground.ended import understood as understood
from recipe.ground.errors import MachineError
from recipe.ground.log import say

# Less than this free and a failed command is blamed on the disk before anything else.
FULL_DISK_BYTES = 16 * 2**20
# How long compilers may take to remove what they had half written when they are told to end.
ENDING_SECONDS = 30
# How long a command that has ended may still be heard: a server that it started may keep its pipe.
LISTENING_SECONDS = 10
NO_ROOM = tuple(os.strerror(number).encode() for number in (errno.ENOSPC, errno.EDQUOT))
# It reads to the end of a pipe that only this process holds the other end of.
WATCH = 'read -r line; kill -s TERM -- "-$1"'


def output(
    args: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
) -> bytes:
    """The command's standard output; CommandFailed with its standard error otherwise."""
    finished = subprocess.run(
        args,
        cwd=cwd,
        env=None if env is None else changed(env),
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return said(args, finished.returncode, finished.stdout, finished.stderr)


def changed(env: Mapping[str, str | None]) -> dict[str, str]:
    """Our environment with these variables set, or taken out where they are None: an empty
    LIBRARY_PATH means the current folder to GCC."""
    merged = {**os.environ, **env}
    return {name: value for name, value in merged.items() if value is not None}


def output_together(args: Sequence[str], *, cwd: Path, env: Mapping[str, str | None]) -> bytes:
    """As `output`, for a command that writes into a folder which the next run uses."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with together(args, cwd=cwd, env=changed(env), **streams) as process:
        stdout, stderr = process.communicate()
    return said(args, process.returncode, stdout, stderr)


def said(args: Sequence[str], status: int, stdout: bytes, stderr: bytes) -> bytes:
    if check_alive(args, status) != 0:
        raise CommandFailed(args, status, stderr.decode(errors="replace"), stdout)
    return stdout


def show(args: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str | None]) -> int:
    """Run a command whose output is for the reader (on stderr), echoed first; its status.

    Killed if a signal ended it. What a shell says of a signal is a status like others: the command
    may be the caller's own.
    """
    say("+ " + shlex.join(args))
    sys.stderr.flush()
    finished = subprocess.run(
        args,
        cwd=cwd,
        env=changed(env),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    if finished.returncode < 0:
        raise Killed(args, -finished.returncode)
    return finished.returncode


def show_together(args: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int:
    """As `show`, for a command that starts others: all of them end with this process."""
    say("+ " + shlex.join(args))
    sys.stderr.flush()
    streams = {"stdin": subprocess.DEVNULL, "stdout": sys.stderr}
    with together(args, cwd=cwd, env=changed(env), **streams) as process:
        return process.wait()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A finished command: seconds of the clock and of all processors, and the most memory that one
    of its processes held, in bytes. no_room: whether one of them said that a disk is full."""

    status: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    no_room: bool = False


def measured(args: Sequence[str], *, cwd: Path, env: Mapping[str, str | None]) -> Measured:
    """As `show`, and what it took: the kernel sums it up for the command and all it started."""
    say("+ " + shlex.join(args))
    sys.stderr.flush()
    start = time.monotonic()
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with together(args, cwd=cwd, env=changed(env), **streams) as process:
        assert process.stdout is not None
        heard = Listener(process.stdout)
        heard.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        heard.join(LISTENING_SECONDS)
    if process.returncode < 0:
        raise Killed(args, -process.returncode)
    return Measured(
        status=process.returncode,
        seconds=time.monotonic() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss << 10,
        no_room=heard.no_room,
    )


class Listener(threading.Thread):
    """Hands on to stderr what a command says, and notes the system's words for a full disk: a
    compiler removes what it had half written, so there may be room again when it has ended."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self.stream = stream
        self.no_room = False

    def run(self) -> None:
        with self.stream:
            for line in self.stream:
                sys.stderr.write(line.decode(errors="replace"))
                sys.stderr.flush()
                self.no_room = self.no_room or any(words in line for words in NO_ROOM)


@contextmanager
def together(args: Sequence[str], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command whose whole process group ends when the block fails, Ctrl-C included, and
    when this process is killed: what went on alone would write where the next run works.

    ninja ends its compilers when it is told to end; a watcher tells it where we can't any more.
    """
    process = subprocess.Popen(args, process_group=0, **how)
    # In a group of its own as well, since whoever kills us may kill ours.
    watcher = subprocess.Popen(
        ["sh", "-c", WATCH, "sh", str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield process
    except BaseException:
        end_group(process)
        raise
    finally:
        watcher.kill()
        watcher.communicate()


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a group and wait until it is empty: its leader may be gone before those it started."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        leader.wait()
        patience = time.monotonic() + ENDING_SECONDS
        while time.monotonic() < patience:
            os.killpg(leader.pid, 0)
            time.sleep(0.02)


def feed(
    args: Sequence[str], *, env: Mapping[str, str | None] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command that reads a stream from its standard input."""
    return subprocess.Popen(
        args,
        env=None if env is None else changed(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def background(
    args: Sequence[str], *, env: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a server that the caller ends; what it says goes to `log`.

    A group of its own keeps it alive while an interrupted build is being cleaned up. Where setpriv
    is at hand (util-linux), the kernel ends it when this process is killed.
    """
    with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with log.open("wb") as said:
        return subprocess.Popen(
            [*with_us, *args],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            process_group=0,
        )


def pipe(source: Sequence[str], sink: Sequence[str], *, env: Mapping[str, str | None]) -> None:
    """``source | sink``; CommandFailed or Killed for the first of the two that fails."""
    full = changed(env)
    with tempfile.TemporaryFile() as problems:
        first = subprocess.Popen(
            source, env=full, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=problems
        )
        assert first.stdout is not None
        with first.stdout:
            second = subprocess.run(
                sink, env=full, stdin=first.stdout, capture_output=True, check=False
            )
        status = first.wait()
        problems.seek(0)
        why = problems.read()
    if status == -signal.SIGPIPE:  # nobody listened any more: the other one says why
        said(sink, second.returncode, b"", second.stderr)
    said(source, status, b"", why)
    said(sink, second.returncode, b"", second.stderr)


def stdin_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def check_disk(where: Path, need: int, purpose: str) -> None:
    """Stop before work that `where` has no room for (`need` bytes)."""
    free = shutil.disk_usage(where).free
    if free < need:
        raise disk_full(where, f"{purpose} needs about {need / 2**20:.0f} MiB")


def disk_full(where: Path, why: str) -> MachineError:
    free = shutil.disk_usage(where).free
    return MachineError(
        f"no room on the disk of {where}: {free / 2**20:.0f} MiB free; {why}",
        means="What was finished is kept; the half-written file is not used.",
        next="free some space, or use a larger disk: SM12X_CACHE=DIR python build.py --out DIR ...",
    )


def is_full(where: Path) -> bool:
    return shutil.disk_usage(where).free < FULL_DISK_BYTES
