# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest
from vllm.sm12x.doctor import host_memory
from vllm.sm12x.doctor.host_memory import GIB, HostMemory, changes, look, shown

MEMINFO = """MemTotal:       125000000 kB
MemFree:         2000000 kB
MemAvailable:   90000000 kB
SwapTotal:      16000000 kB
SwapFree:       15000000 kB
HugePages_Total:       0
"""
# Orders 0 to 10: blocks of 2 MiB are order 9 with pages of 4 KiB, order 5 with pages of 64 KiB.
BUDDYINFO = """Node 0, zone      DMA      1  0  0  0  0  0  0  0  1  1  3
Node 0, zone   Normal  70000  6000  500  40  30  20  10  9  8  7  6
"""
GB10 = HostMemory(
    total=119 * GIB, free=100 * GIB, available=110 * GIB, large_free=90 * GIB, swap_total=0,
    swap_free=0, page=4096, read_ahead_kib=(("259:0", 8192),),
)  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text(MEMINFO, encoding="ascii")
    (tmp_path / "buddyinfo").write_text(BUDDYINFO, encoding="ascii")
    for device, kib in (("259:0", "128"), ("7:0", "0"), ("8:0", "nonsense")):
        (tmp_path / "bdi" / device).mkdir(parents=True)
        (tmp_path / "bdi" / device / "read_ahead_kb").write_text(kib, encoding="ascii")
    return tmp_path


@pytest.mark.parametrize(
    ("page", "blocks"),
    [
        (4096, (1 + 7) * 2 + (3 + 6) * 4),
        (65536, 20 * 2 + 10 * 4 + 9 * 8 + (1 + 8) * 16 + (1 + 7) * 32 + (3 + 6) * 64),
    ],
)
def test_free_blocks_of_two_mebibytes_and_more_are_added_up(
    machine: Path, page: int, blocks: int
) -> None:
    found = look(machine, machine / "bdi", page)
    assert found is not None
    assert found.large_free == blocks << 20
    assert (found.free, found.available) == (2000000 << 10, 90000000 << 10)
    assert found.read_ahead_kib == (("259:0", 128), ("7:0", 0))


def test_a_kernel_that_does_not_tell_leaves_it_unknown(machine: Path) -> None:
    (machine / "buddyinfo").unlink()
    found = look(machine, machine / "bdi")
    assert found is not None and found.large_free is None
    assert "2 MiB and more: unknown" in shown(found)[0]
    (machine / "meminfo").write_text("MemTotal: 5 kB\n", encoding="ascii")
    assert look(machine) is None
    assert look(machine / "no such folder") is None


def test_this_machine_is_looked_at() -> None:
    found = look()
    assert found is not None
    assert 0 < found.free <= found.total and 0 < found.available <= found.total
    assert found.large_free is None or found.large_free <= found.total
    assert len(shown(found)) in (1, 2, 3)


def test_all_numbers_are_shown() -> None:
    text = "\n".join(shown(GB10))
    for part in ("100.00 GiB free", "110.00 GiB available", "119.00 GiB", "90.00 GiB", "4 KiB"):
        assert part in text
    assert "8192 KiB on 259:0" in text
    assert "lazy loading is slow" not in text
    assert changes(GB10) == []


def test_little_read_ahead_is_told_and_no_fault() -> None:
    memory = replace(GB10, read_ahead_kib=(("259:0", 128), ("7:0", 0), ("8:0", 4096)))
    (slow,) = (line for line in shown(memory) if "slow" in line)
    assert "259:0" in slow and "7:0" not in slow and "8:0" not in slow
    assert changes(memory) == []


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"free": 9 * GIB, "large_free": 8 * GIB}, "drop_caches"),
        ({"large_free": 10 * GIB}, "compact_memory"),
        ({"swap_total": GIB}, "swapoff"),
    ],
)
def test_each_trouble_comes_with_what_to_type(change: dict[str, int], advice: str) -> None:
    (only,) = changes(replace(GB10, **change))  # type: ignore[arg-type]
    assert advice in only


def test_the_module_needs_neither_torch_nor_vllm() -> None:
    text = Path(host_memory.__file__).read_text(encoding="utf-8")
    assert "import torch" not in text and "from vllm" not in text
