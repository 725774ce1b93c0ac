# SPDX-License-Identifier: Apache-2.0
"""How a checkpoint is to be read, and why.

Upstream reads ahead by itself on NFS and Lustre alone, and only what memory holds. Lazy loading is
slow on a local disk, too: it reads one small piece at a time, and a start from EXT4 stalled for an
hour. The size per rank and the local file systems are those of vllm-project/vllm#40988; a
checkpoint that memory doesn't hold is the case of #40899. Neither needs memory for the checkpoint
here: a window drops what is behind it, and a stream has its own few MiB.

Everything here is pure; `gather` asks for what a decision rests on.
"""

from dataclasses import dataclass
from enum import Enum

from .facts.filesystem import FileSystem, Kind
from .facts.memory import Memory

GIB = 1024**3

# Upstream's share of available memory that a checkpoint may take.
MEMORY_SHARE = 0.9
# From this share on there is nothing left to read ahead.
RESIDENT_SHARE = 0.95
# A window takes at most this share of the memory that is available.
WINDOW_SHARE = 0.25


class Way(str, Enum):
    """How the tensors of a checkpoint reach the parameters."""

    LAZY = "lazy"  # upstream's: the files are mapped, the kernel reads what is touched
    PREFETCH = "prefetch"  # upstream's: threads read all files into the page cache
    WINDOW = "window"  # the page cache is filled a bounded piece ahead of the load
    STREAM = "stream"  # what a rank takes is read into a few buffers of its own


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a decision rests on.

    `asked` is the way that the user named, `asked_by` the flag or variable that did.
    `rank_bytes` is what one rank takes of the checkpoint, about; `node_bytes` what all ranks of
    this machine read together. `bytes_on` says which file systems hold how much.
    `memory` is None where the kernel doesn't tell, `resident` (the share of the checkpoint that
    is in the page cache) where it doesn't tell this user.
    `weights_share_memory`: the GPU has no memory of its own (GB10).
    `window_bytes`: how far a window may be ahead at most.
    """

    asked: Way | None = None
    asked_by: str = ""
    total_bytes: int
    rank_bytes: float
    node_bytes: float
    min_gib_per_rank: float
    bytes_on: tuple[tuple[FileSystem, int], ...]
    memory: Memory | None
    resident: float | None
    weights_share_memory: bool
    window_bytes: int = GIB

    def bytes_of(self, *kinds: Kind) -> int:
        """Bytes on file systems of these kinds."""
        return sum(size for filesystem, size in self.bytes_on if filesystem.kind in kinds)

    @property
    def fits(self) -> bool:
        """Whether memory is known to hold what this machine's ranks read."""
        available = self.memory.available_bytes if self.memory else 0
        return self.node_bytes <= MEMORY_SHARE * available


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The way, the reason in a few words, and the facts behind it.

    `drop`: pages are given back once they have been read. `window_bytes`: how far ahead to read.
    """

    way: Way
    reason: str
    facts: Facts
    drop: bool
    window_bytes: int

    def explain(self) -> str:
        """Return the decision as one line for the log."""
        facts = self.facts
        memory, resident = "unknown", "an unknown share"
        if facts.memory is not None:
            memory = f"{_gib(facts.memory.available_bytes)} ({facts.memory.bound_by})"
        if facts.resident is not None:
            resident = f"{facts.resident:.0%}"
        window = f" (at most {_gib(self.window_bytes)} ahead)" if self.way is Way.WINDOW else ""
        return (
            f"Checkpoint loading is {self.way.value}{window}: {self.reason}. "
            f"Checkpoint {_gib(facts.total_bytes)}, {_gib(facts.rank_bytes)} per rank, "
            f"{_gib(facts.node_bytes)} for this machine's ranks, on {_names(facts)}, "
            f"{resident} of it in the page cache; available memory {memory}. "
            "--safetensors-load-strategy or VLLM_SM12X_LOADING (lazy, prefetch, window, stream) "
            "decides otherwise."
        )


def decide(facts: Facts) -> Decision:
    """Decide how to load; what the user named always wins."""
    way, reason = _choose(facts)
    drop = way is Way.STREAM or (way is Way.WINDOW and not facts.fits)
    room = facts.window_bytes
    if facts.memory is not None:
        room = min(room, int(WINDOW_SHARE * facts.memory.available_bytes))
    return Decision(way=way, reason=reason, facts=facts, drop=drop, window_bytes=room)


def _choose(facts: Facts) -> tuple[Way, str]:
    if facts.asked is not None:
        return facts.asked, f"{facts.asked_by} says so"
    if not facts.total_bytes:
        return Way.LAZY, "there is nothing to read"
    if facts.weights_share_memory:
        # Copies from mapped pages run at 0.1 to 0.25 GB/s there, cached or not.
        return Way.STREAM, "this GPU reads mapped files slowly, and shares its memory with them"
    if not facts.bytes_of(Kind.LOCAL, Kind.NETWORK, Kind.UNKNOWN):
        return Way.LAZY, "the files are in memory already"
    if facts.resident is not None and facts.resident >= RESIDENT_SHARE:
        return Way.LAZY, "the files are in the page cache already"
    if not facts.bytes_of(Kind.LOCAL, Kind.NETWORK):
        return Way.LAZY, "this file system isn't known to gain from reading ahead"
    if facts.bytes_of(Kind.NETWORK):
        return Way.WINDOW, "a network or user-space file system answers many requests at once"
    if facts.rank_bytes > facts.min_gib_per_rank * GIB:
        return Way.WINDOW, (
            f"above {facts.min_gib_per_rank:g} GiB per rank (VLLM_SM12X_PREFETCH_MIN_GIB) "
            "on a local file system"
        )
    if facts.memory is not None and not facts.fits:
        return Way.WINDOW, f"the checkpoint is more than {MEMORY_SHARE:.0%} of available memory"
    limit = f"{facts.min_gib_per_rank:g} GiB per rank (VLLM_SM12X_PREFETCH_MIN_GIB)"
    return Way.LAZY, f"not above {limit}, and memory holds the checkpoint"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _names(facts: Facts) -> str:
    return ", ".join(str(filesystem) for filesystem, _ in facts.bytes_on) or "no file system"
