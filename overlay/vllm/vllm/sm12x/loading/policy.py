# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint should be read into the page cache ahead of loading, and why.

Upstream does so by itself on NFS and Lustre alone. Lazy loading is slow on a local disk, too: it
reads one small piece at a time, and a start from EXT4 stalled for an hour. The size per rank and
the list of file systems are those of vllm-project/vllm#40988. When memory can't hold the
checkpoint, reading all of it ahead reads most of it twice: that case is left to lazy loading.

Everything here is pure; `filesystem` and `memory` gather the facts.
"""

from dataclasses import dataclass
from enum import Enum

from .filesystem import FileSystem, Kind
from .memory import Memory

GIB = 1024**3

# Upstream's share of available memory that a checkpoint may take.
MEMORY_SHARE = 0.9


class Mode(str, Enum):
    """What VLLM_SM12X_PREFETCH asks for."""

    AUTO = "auto"
    ALWAYS = "1"
    NEVER = "0"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a decision rests on. `memory` is None where the kernel doesn't tell.

    `weights_share_memory`: the GPU has no memory of its own (GB10), so that the weights of this
    rank and the page cache come out of one pool.
    `upstream`: what upstream decides by itself.
    """

    mode: Mode
    total_bytes: int
    world_size: int
    min_gib_per_rank: float
    filesystems: tuple[FileSystem, ...]
    memory: Memory | None
    weights_share_memory: bool
    upstream: bool

    @property
    def bytes_per_rank(self) -> float:
        """Each rank prefetches one file in `world_size`, so about this many bytes."""
        return self.total_bytes / self.world_size

    @property
    def needed_bytes(self) -> float:
        """Memory that must be free to hold the checkpoint, and the weights where they share it."""
        return self.total_bytes + self.bytes_per_rank * self.weights_share_memory


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Prefetch or not, the reason in a few words, and the facts behind it."""

    prefetch: bool
    reason: str
    facts: Facts

    def explain(self) -> str:
        """Return the decision as one line for the log."""
        facts = self.facts
        memory = "unknown"
        if facts.memory is not None:
            memory = f"{_gib(facts.memory.available_bytes)} ({facts.memory.bound_by})"
        return (
            f"Checkpoint prefetch is {'on' if self.prefetch else 'off'}: {self.reason}. "
            f"Checkpoint {_gib(facts.total_bytes)}, {_gib(facts.bytes_per_rank)} per rank, on "
            f"{_names(facts.filesystems)}; available memory {memory}. "
            "VLLM_SM12X_PREFETCH=1 or 0 decides otherwise."
        )


def decide(facts: Facts) -> Decision:
    """Decide for a checkpoint whose load strategy is automatic.

    The knob is asked first, then upstream: it never prefetches less than upstream would.
    """
    match facts.mode:
        case Mode.NEVER:
            return Decision(prefetch=False, reason="VLLM_SM12X_PREFETCH is 0", facts=facts)
        case Mode.ALWAYS:
            return Decision(prefetch=True, reason="VLLM_SM12X_PREFETCH is 1", facts=facts)
    if facts.upstream:
        reason = "a network file system, and memory holds the checkpoint"
        return Decision(prefetch=True, reason=reason, facts=facts)
    objection = _filesystem_objection(facts) or _size_objection(facts) or _memory_objection(facts)
    if objection:
        return Decision(prefetch=False, reason=objection, facts=facts)
    reason = "a large checkpoint on a file system worth reading ahead, and memory holds it"
    return Decision(prefetch=True, reason=reason, facts=facts)


def _filesystem_objection(facts: Facts) -> str:
    unfit = [f for f in facts.filesystems if f.kind not in (Kind.LOCAL, Kind.NETWORK)]
    in_memory = [f for f in unfit if f.kind is Kind.MEMORY]
    if in_memory:
        return f"files on {_names(in_memory)} are in memory already"
    if unfit:
        return f"{_names(unfit)} isn't known to gain from it"
    return "" if facts.filesystems else "there are no files"


def _size_objection(facts: Facts) -> str:
    if facts.bytes_per_rank > facts.min_gib_per_rank * GIB:
        return ""
    return f"not above {facts.min_gib_per_rank:g} GiB per rank (VLLM_SM12X_PREFETCH_MIN_GIB)"


def _memory_objection(facts: Facts) -> str:
    if facts.memory is None:
        return "available memory is unknown"
    if facts.needed_bytes <= MEMORY_SHARE * facts.memory.available_bytes:
        return ""
    content = "the checkpoint"
    if facts.weights_share_memory:
        content += " beside the rank's weights, which share it"
    return (
        f"memory doesn't hold {content}: needed {_gib(facts.needed_bytes)}, "
        f"at most {MEMORY_SHARE:.0%} of what is available may be used"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _names(filesystems: tuple[FileSystem, ...] | list[FileSystem]) -> str:
    return ", ".join(map(str, filesystems)) or "no file system"
