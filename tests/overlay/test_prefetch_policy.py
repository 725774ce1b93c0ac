# SPDX-License-Identifier: Apache-2.0
from dataclasses import FrozenInstanceError, replace

import pytest
from vllm.sm12x.loading.filesystem import FileSystem, Kind
from vllm.sm12x.loading.memory import Memory
from vllm.sm12x.loading.policy import GIB, Decision, Facts, Mode, decide

EXT4 = FileSystem(type="ext4", kind=Kind.LOCAL)
NFS = FileSystem(type="nfs4", kind=Kind.NETWORK)
TMPFS = FileSystem(type="tmpfs", kind=Kind.MEMORY)
SSHFS = FileSystem(type="fuse.sshfs", kind=Kind.UNKNOWN)


def memory(gib: float) -> Memory:
    return Memory(available_bytes=int(gib * GIB), bound_by="host")


# A checkpoint of 805 GiB on the local disk of one host with eight GPUs and 1 TiB of memory.
LARGE = Facts(
    mode=Mode.AUTO,
    total_bytes=805 * GIB,
    world_size=8,
    min_gib_per_rank=50.0,
    filesystems=(EXT4,),
    memory=memory(1000),
    weights_share_memory=False,
    upstream=False,
)


def test_a_large_checkpoint_on_a_local_disk_is_prefetched() -> None:
    assert decide(LARGE).prefetch


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": Mode.NEVER}, "VLLM_SM12X_PREFETCH is 0"),
        ({"mode": Mode.NEVER, "upstream": True}, "VLLM_SM12X_PREFETCH is 0"),
        ({"filesystems": (TMPFS,)}, "tmpfs are in memory already"),
        ({"filesystems": (EXT4, TMPFS)}, "tmpfs are in memory already"),
        ({"filesystems": (SSHFS,)}, "fuse.sshfs isn't known"),
        ({"filesystems": (NFS, SSHFS)}, "fuse.sshfs isn't known"),
        ({"filesystems": (FileSystem(type="", kind=Kind.UNKNOWN),)}, "unknown file system"),
        ({"filesystems": (), "total_bytes": 0}, "no files"),
        ({"world_size": 16, "total_bytes": 800 * GIB}, "not above 50 GiB per rank"),
        ({"world_size": 1, "total_bytes": 50 * GIB}, "not above 50 GiB per rank"),
        ({"memory": None}, "available memory is unknown"),
        ({"memory": memory(894)}, "memory doesn't hold the checkpoint"),
        ({"memory": memory(1000), "weights_share_memory": True}, "beside the rank's weights"),
    ],
)
def test_every_refusal_says_why(change: dict[str, object], reason: str) -> None:
    decision = decide(replace(LARGE, **change))  # type: ignore[arg-type]
    assert not decision.prefetch
    assert reason in decision.reason


@pytest.mark.parametrize(
    "change",
    [
        {"filesystems": (NFS,)},
        {"filesystems": (EXT4, NFS)},
        {"world_size": 1, "total_bytes": 50 * GIB + 1},
        {"min_gib_per_rank": 0.0, "total_bytes": 1},
        {"memory": memory(895)},
        {"memory": memory(1007), "weights_share_memory": True},
        {"mode": Mode.ALWAYS, "filesystems": (TMPFS,), "memory": memory(1)},
        {"mode": Mode.ALWAYS, "total_bytes": 1},
    ],
)
def test_what_is_just_enough_is_prefetched(change: dict[str, object]) -> None:
    assert decide(replace(LARGE, **change)).prefetch  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"total_bytes": GIB},
        {"memory": None},
        {"memory": memory(1)},
        {"filesystems": (NFS, SSHFS)},
        {"weights_share_memory": True},
    ],
)
def test_never_less_is_prefetched_than_upstream_does(change: dict[str, object]) -> None:
    assert decide(replace(LARGE, upstream=True, **change)).prefetch  # type: ignore[arg-type]


def test_the_explanation_is_one_line_with_the_facts() -> None:
    line = decide(LARGE).explain()
    for part in ("is on", "805.00 GiB", "100.62 GiB per rank", "ext4", "1000.00 GiB (host)"):
        assert part in line
    assert "\n" not in line


def test_the_explanation_of_a_refusal_says_how_to_override_it() -> None:
    line = decide(replace(LARGE, memory=None)).explain()
    assert "is off" in line
    assert "available memory unknown" in line
    assert "VLLM_SM12X_PREFETCH=1" in line


def test_a_decision_cannot_be_changed_afterwards() -> None:
    decision = Decision(prefetch=True, reason="", facts=LARGE)
    with pytest.raises(FrozenInstanceError):
        decision.prefetch = False  # type: ignore[misc]
