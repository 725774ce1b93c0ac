# SPDX-License-Identifier: Apache-2.0
"""Which ranks of this load run on the same machine.

Each rank writes the kernel's boot id and its local rank into the store of the process group and
reads those of the others. It isn't a collective, so a load that only some ranks do (a draft model
on the last pipeline stage) can't hang it; a rank whose neighbours don't answer counts as alone,
and then reads all that it needs by itself.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PATIENCE = timedelta(seconds=20)
_KEY = "vllm-sm12x/loading/node"


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The ranks of one process group on this machine: how many, and which of them this one is."""

    index: int = 0
    count: int = 1

    def share(self, files: Sequence[str]) -> list[str]:
        """Return the files that this rank reads for its machine."""
        return list(files[self.index :: self.count])


ALONE = Neighbours()

# What a store that is gone, late or not there at all may raise.
_TROUBLE = (RuntimeError, ValueError, AttributeError, TypeError)


def boot_id(path: Path = BOOT_ID) -> str:
    """Return what tells this machine from others since its last start; empty if nothing does."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def announce() -> None:
    """Tell the other ranks where this one is, for a load in which it doesn't ask for them."""
    group = _group()
    if group is not None:
        try:
            _say(group)
        except _TROUBLE:
            logger.debug("The process group has no store to say anything in.", exc_info=True)


def find_neighbours(patience: timedelta = PATIENCE) -> Neighbours:
    """Return the neighbours of this rank in the default process group, or ALONE without one."""
    group = _group()
    if group is None:
        return ALONE
    try:
        store, rank = _say(group)
        keys = [f"{_KEY}/{other}" for other in range(group.get_world_size())]
        store.wait(keys, patience)
        said = {other: bytes(store.get(key)).decode() for other, key in enumerate(keys)}
    except _TROUBLE as error:
        logger.warning(
            "The other ranks didn't say which machine they are on (%s): this rank reads all that "
            "it needs by itself.",
            str(error).splitlines()[0] if str(error) else type(error).__name__,
        )
        return ALONE
    return sort_out(said, rank)


def _group() -> Any:
    """torch's process groups if this process is in one with others, and knows its machine."""
    from torch import distributed

    group: Any = distributed  # partly untyped
    if not (group.is_available() and group.is_initialized() and boot_id()):
        return None
    return group if group.get_world_size() > 1 else None


def _say(group: Any) -> tuple[Any, int]:
    store, rank = group.distributed_c10d._get_default_store(), group.get_rank()
    store.set(f"{_KEY}/{rank}", f"{boot_id()} {_local_rank(rank)}")
    return store, rank


def sort_out(said: Mapping[int, str], rank: int) -> Neighbours:
    """Find a rank among what all ranks said: `BOOT_ID LOCAL_RANK`.

    The order is that of the local ranks. A rank that didn't say the same as this machine is
    elsewhere; one whose own answer is missing is alone.
    """
    told = {other: text.split() for other, text in said.items()}
    machine = told.get(rank, [])
    if len(machine) != 2:
        return ALONE
    here = [other for other, words in told.items() if len(words) == 2 and words[0] == machine[0]]
    here.sort(key=lambda other: (int(told[other][1]), other))
    return Neighbours(index=here.index(rank), count=len(here))


def _local_rank(rank: int) -> int:
    """vLLM's local rank; outside vLLM the global one sorts as well."""
    try:
        from vllm.distributed.parallel_state import get_world_group

        return int(get_world_group().local_rank)
    except (ImportError, AssertionError):
        return rank
