# SPDX-License-Identifier: Apache-2.0
"""Run the ranks of one node as processes, and measure what each of them reads and takes."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.loading_checkpoint import rank_of
from benchmarks.loading_methods import Setting, tensors

# What a rank needs besides the page cache: Python, torch, and the parameters it fills.
_RANK_BYTES = 128 << 20
_GROUPS = Path("/sys/fs/cgroup/memory")
_POLL_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class Run:
    """A method on a checkpoint: ranks of the node, and memory for the page cache, if limited."""

    method: str
    files: list[str]
    gib: float
    ranks: int
    limit_gib: float | None = None
    only_rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of a node: seconds, bytes read from devices, CPU seconds; the most of any rank: the others.

    `anonymous` are bytes of a rank above what it had before the load, `worst` its bytes read by
    those of its parameters.
    """

    wall: float
    read: int
    cpu: float
    anonymous: int
    worst: float


def run(what: Run) -> Measured:
    """Load once, all ranks at the same time. Raises RuntimeError when a rank fails."""
    context = get_context("fork")
    indices = range(what.ranks) if what.only_rank is None else [what.only_rank]
    start = context.Barrier(len(indices))
    pipes = [context.Pipe(duplex=False) for _ in indices]
    with limited(what, len(indices)) as join:
        processes = [
            context.Process(target=_load, args=(what, index, start, pipe[1], join))
            for index, pipe in zip(indices, pipes, strict=True)
        ]
        for process in processes:
            process.start()
        for _, end in pipes:
            end.close()
        try:
            found = [receiver.recv() for receiver, _ in pipes]
        except EOFError:
            for process in processes:
                process.kill()
            raise RuntimeError(f"a rank of {what.method} failed; see above") from None
        for process in processes:
            process.join()
    return Measured(
        wall=max(one["end"] for one in found) - min(one["start"] for one in found),
        read=sum(one["read"] for one in found),
        cpu=sum(one["cpu"] for one in found),
        anonymous=max(one["anonymous"] for one in found),
        worst=max(one["read"] / one["needed"] for one in found),
    )


def _load(what: Run, index: int, start: Any, pipe: Connection, join: Callable[[], None]) -> None:
    import torch

    torch.set_num_threads(1)
    join()
    rank = rank_of(index, what.ranks, what.gib)
    needed = rank.needed(what.gib)
    targets: dict[tuple[int, ...], Any] = {}
    begun: dict[str, float] = {}

    def ready() -> None:
        start.wait()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        begun.update(
            start=time.perf_counter(), cpu=usage.ru_utime + usage.ru_stime, read=_bytes_read()
        )

    setting = Setting(
        files=what.files,
        rank=index,
        ranks=what.ranks,
        drop=what.limit_gib is not None,
        window_bytes=int(min(1.0, (what.limit_gib or 4.0) / 4) * 2**30),
        ready=ready,
    )
    with _watched() as peak:
        for name, tensor in tensors(what.method, setting):
            part = rank.take(name, tensor)
            if part is None:
                continue
            shape = tuple(part.shape)
            if shape not in targets:
                # Parameters of one shape share their memory here, so that the limit is the cache's.
                targets[shape] = torch.zeros(shape, dtype=part.dtype)
                peak.allow(targets[shape].nbytes)
            targets[shape].copy_(part)
        del tensor, part
        end = time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send(
        {
            "start": begun["start"],
            "end": end,
            "read": _bytes_read() - int(begun["read"]),
            "cpu": usage.ru_utime + usage.ru_stime - begun["cpu"],
            "anonymous": peak.over,
            "needed": needed,
        }
    )
    pipe.close()
    # Upstream's thread may still be reading, and nothing of it is to be waited for.
    os._exit(0)


class Peak:
    """The most anonymous memory above what was there before and is allowed since."""

    def __init__(self) -> None:
        self._allowed = _anonymous()
        self.over = 0

    def allow(self, size: int) -> None:
        self._allowed += size

    def look(self) -> None:
        self.over = max(self.over, _anonymous() - self._allowed)


@contextmanager
def _watched() -> Iterator[Peak]:
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            peak.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel's /proc/self/status has no RssAnon")


def _bytes_read() -> int:
    """Bytes that this process had devices read, be it by read-ahead, a fault, or directly."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise RuntimeError("this kernel's /proc/self/io has no read_bytes")


@contextmanager
def limited(what: Run, ranks: int) -> Iterator[Callable[[], None]]:
    """Give a function by which a process joins a group with so much memory, if there is a limit."""
    if what.limit_gib is None:
        yield lambda: None
        return
    group = _GROUPS / f"sm12x-loading-{os.getpid()}"
    group.mkdir()
    try:
        size = int(what.limit_gib * 2**30) + ranks * _RANK_BYTES
        (group / "memory.limit_in_bytes").write_text(str(size), encoding="ascii")

        def join() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

        yield join
    finally:
        group.rmdir()


def why_no_limit() -> str:
    """Why memory can't be limited here; empty if it can."""
    if os.access(_GROUPS / "memory.limit_in_bytes", os.W_OK):
        return ""
    return f"{_GROUPS} isn't a version 1 memory control group that may be written to"
