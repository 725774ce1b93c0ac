# SPDX-License-Identifier: Apache-2.0
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from vllm.sm12x.loading.facts import node
from vllm.sm12x.loading.facts.node import ALONE, Neighbours, find_neighbours, sort_out

FILES = [f"model-{number:05}.safetensors" for number in range(16)]


@pytest.mark.parametrize("rank", range(8))
def test_a_rank_that_is_alone_on_its_machine_reads_all(rank: int) -> None:
    said = {other: f"machine-{other} 0" for other in range(8)}
    assert sort_out(said, rank).share(FILES) == FILES


@pytest.mark.parametrize(("nodes", "local"), [(1, 8), (2, 4), (4, 2)])
def test_ranks_of_a_machine_share_the_files_out(nodes: int, local: int) -> None:
    said = {rank: f"machine-{rank // local} {rank % local}" for rank in range(nodes * local)}
    for machine in range(nodes):
        ranks = range(machine * local, (machine + 1) * local)
        shares = [sort_out(said, rank).share(FILES) for rank in ranks]
        assert sorted(file for share in shares for file in share) == FILES
        assert len({len(share) for share in shares}) == 1


def test_ranks_go_by_their_local_rank_however_the_world_counts() -> None:
    said = {0: "a 1", 1: "b 0", 2: "a 0", 3: "b 1"}
    found = [sort_out(said, rank).index for rank in range(4)]
    assert found == [1, 0, 0, 1]


@pytest.mark.parametrize("own", ["", "machine", "machine 0 1"])
def test_a_rank_that_heard_nothing_sensible_of_itself_is_alone(own: str) -> None:
    assert sort_out({0: own, 1: "machine 1"}, 0) == ALONE


def test_without_a_process_group_a_rank_is_alone() -> None:
    assert find_neighbours() == ALONE


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process group of 8 ranks of which this is rank 3, with a real store of torch's."""
    from torch import distributed

    store = distributed.HashStore()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 8)
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(node, "_local_rank", lambda rank: 0)
    return store


def test_eight_machines_with_a_rank_each_are_told_apart(world: Any) -> None:
    for rank in range(8):
        if rank != 3:
            world.set(f"{node._KEY}/{rank}", f"another-machine-{rank} 0")
    assert find_neighbours().share(FILES) == FILES


def test_eight_ranks_of_this_machine_find_each_other(world: Any) -> None:
    for rank in range(8):
        if rank != 3:
            world.set(f"{node._KEY}/{rank}", f"{node.boot_id()} {rank}")
    assert find_neighbours() == Neighbours(index=1, count=8)  # local rank 0, like rank 0's


def test_a_rank_that_does_not_answer_makes_this_one_read_by_itself(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_neighbours(timedelta(milliseconds=50)) == ALONE
    assert "reads all that it needs by itself" in caplog.text


def test_the_fake_group_of_torch_is_no_neighbour() -> None:
    import torch.distributed as distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
    try:
        assert find_neighbours() == ALONE
    finally:
        distributed.destroy_process_group()


def test_the_boot_id_is_the_kernels() -> None:
    assert len(node.boot_id()) == 36
    assert node.boot_id(Path("/no/such/file")) == ""
    assert sys.platform == "linux"
