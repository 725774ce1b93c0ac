# SPDX-License-Identifier: Apache-2.0
from dataclasses import FrozenInstanceError, replace

import pytest
from vllm.sm12x.loading.facts.filesystem import FileSystem, Kind
from vllm.sm12x.loading.facts.memory import Memory
from vllm.sm12x.loading.policy import GIB, Facts, Way, decide

EXT4 = FileSystem(type="ext4", kind=Kind.LOCAL)
NFS = FileSystem(type="nfs4", kind=Kind.NETWORK)
TMPFS = FileSystem(type="tmpfs", kind=Kind.MEMORY)
HIDDEN = FileSystem(type="overlay with hidden layers", kind=Kind.UNKNOWN)


def memory(gib: float) -> Memory:
    return Memory(available_bytes=int(gib * GIB), bound_by="host")


def facts(gib: float = 805, ranks: int = 8, on: FileSystem = EXT4, **changes: object) -> Facts:
    """A checkpoint on the local disk of a host with 1 TiB of memory, none of it resident."""
    size = int(gib * GIB)
    known = Facts(
        total_bytes=size,
        rank_bytes=size / ranks,
        node_bytes=size,
        min_gib_per_rank=50.0,
        bytes_on=((on, size),),
        memory=memory(1000),
        resident=0.0,
        weights_share_memory=False,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("available", [9.3, 119.0, 1000.0])
def test_the_request_is_on_whatever_memory_there_is(available: float) -> None:
    asked = facts(805.33, 8, memory=memory(available), weights_share_memory=True)
    assert decide(asked).way is Way.STREAM
    assert decide(replace(asked, weights_share_memory=False)).way is Way.WINDOW


@pytest.mark.parametrize("type_", ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs"])
def test_more_than_so_much_per_rank_on_a_local_disk_is_read_ahead(type_: str) -> None:
    on = FileSystem(type=type_, kind=Kind.LOCAL)
    assert decide(facts(400.1, 8, on)).way is Way.WINDOW
    assert decide(facts(400, 8, on)).way is Way.LAZY


def test_a_checkpoint_that_memory_does_not_hold_is_read_ahead_at_any_size() -> None:
    assert decide(facts(9.01, 1, memory=memory(10))).way is Way.WINDOW
    assert decide(facts(9, 1, memory=memory(10))).way is Way.LAZY


def test_unknown_memory_keeps_nothing_from_being_read_ahead() -> None:
    assert decide(facts(memory=None)).way is Way.WINDOW
    assert decide(facts(40, 1, memory=None)).way is Way.LAZY


@pytest.mark.parametrize("type_", ["nfs4", "lustre", "ceph", "virtiofs", "fuse.sshfs"])
def test_a_network_file_system_is_read_ahead_at_any_size(type_: str) -> None:
    assert decide(facts(1, 8, FileSystem(type=type_, kind=Kind.NETWORK))).way is Way.WINDOW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"on": TMPFS}, "in memory already"),
        ({"on": NFS, "resident": 0.95}, "in the page cache already"),
        ({"on": HIDDEN}, "isn't known"),
        ({"gib": 0}, "nothing to read"),
        ({"gib": 50, "ranks": 1}, "not above 50 GiB per rank"),
    ],
)
def test_every_lazy_load_says_why(changes: dict[str, object], reason: str) -> None:
    decision = decide(facts(**changes))  # type: ignore[arg-type]
    assert decision.way is Way.LAZY
    assert reason in decision.reason


def test_resident_files_are_left_alone_only_if_that_is_known() -> None:
    assert decide(facts(resident=0.94)).way is Way.WINDOW
    assert decide(facts(resident=None)).way is Way.WINDOW


def test_of_two_file_systems_the_one_that_is_read_counts() -> None:
    half = 400 * GIB
    assert decide(facts(800, bytes_on=((EXT4, half), (TMPFS, half)))).way is Way.WINDOW
    assert decide(facts(8, bytes_on=((EXT4, half), (NFS, half)))).way is Way.WINDOW


@pytest.mark.parametrize("asked", list(Way))
@pytest.mark.parametrize(
    "changes",
    [{}, {"weights_share_memory": True}, {"on": TMPFS}, {"memory": None}, {"resident": 1.0}],
)
def test_what_the_user_names_always_wins(asked: Way, changes: dict[str, object]) -> None:
    decision = decide(facts(asked=asked, asked_by="the user", **changes))  # type: ignore[arg-type]
    assert decision.way is asked
    assert decision.reason == "the user says so"


@pytest.mark.parametrize(
    ("available", "drop"), [(1000.0, False), (895.0, False), (894.0, True), (9.3, True)]
)
def test_a_window_gives_pages_back_where_memory_does_not_hold_all(
    available: float, drop: bool
) -> None:
    assert decide(facts(memory=memory(available))).drop is drop


def test_a_window_takes_a_quarter_of_what_is_available_at_most() -> None:
    assert decide(facts(memory=memory(2))).window_bytes == GIB // 2
    assert decide(facts()).window_bytes == GIB
    assert decide(facts(memory=None, window_bytes=7)).window_bytes == 7


def test_the_explanation_is_one_line_with_the_facts_and_what_decides_otherwise() -> None:
    line = decide(facts()).explain()
    for part in (
        "is window", "805.00 GiB", "100.62 GiB per rank", "ext4", "1000.00 GiB (host)", "0% of it",
        "at most 1.00 GiB ahead", "--safetensors-load-strategy", "VLLM_SM12X_LOADING",
    ):  # fmt: skip
        assert part in line
    assert "\n" not in line


def test_what_is_not_known_is_said() -> None:
    line = decide(facts(memory=None, resident=None, bytes_on=())).explain()
    for part in ("available memory unknown", "unknown share", "no file system"):
        assert part in line


def test_a_decision_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        decide(facts()).way = Way.LAZY  # type: ignore[misc]
