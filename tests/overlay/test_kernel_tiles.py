# SPDX-License-Identifier: Apache-2.0
"""How kernels are launched: from shapes and devices alone."""

import types

import interpreted
import pytest
import torch

(tiles,) = interpreted.kernels("tiles")

GB10 = tiles.Device(family=tiles.Family.SM121, sms=48, l2_bytes=24 << 20)
PRO_6000 = tiles.Device(family=tiles.Family.SM120, sms=188, l2_bytes=128 << 20)
DEVICES = pytest.mark.parametrize("device", [GB10, PRO_6000], ids=["GB10", "RTX PRO 6000"])
HEADS = (1, 8, 16, 20, 32, 64, 128)


@DEVICES
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(
    ("kernel", "widths"), [("DECODE_V4", [128]), ("DECODE_V4", [128, 512]), ("DECODE_V32", [2048])]
)
def test_a_row_alone_has_at_most_128_entries_a_program(
    device: object, heads: int, kernel: str, widths: list[int]
) -> None:
    plan = tiles.plan(tiles.Kernel[kernel], device, rows=1, heads=heads, widths=widths)
    block = plan.tile.block_entries
    counted = sum(-(-width // block) for width in widths)
    assert -(-counted // plan.splits) * block <= 128


@DEVICES
def test_many_rows_are_not_split_and_need_one_launch(device: object) -> None:
    for heads in HEADS:
        plan = tiles.plan(tiles.Kernel.DECODE_V4, device, rows=4096, heads=heads, widths=[128, 512])
        assert plan.splits == 1


@DEVICES
@pytest.mark.parametrize(
    ("kernel", "widths"), [("DECODE_V4", [128, 512]), ("DECODE_V4", [128]), ("DECODE_V32", [2048])]
)
def test_two_launches_do_for_any_number_of_rows(
    device: object, kernel: str, widths: list[int]
) -> None:
    """More rows than one pass has are not split."""
    for heads in HEADS:
        for rows in range(1, 600):
            plan = tiles.plan(tiles.Kernel[kernel], device, rows=rows, heads=heads, widths=widths)
            assert plan.splits == 1 or rows <= tiles.AUTOMATIC.rows


@DEVICES
def test_what_the_splits_write_is_bounded_by_the_device_not_by_the_batch(device: object) -> None:
    for kernel in (tiles.Kernel.DECODE_V4, tiles.Kernel.DECODE_V32):
        for heads in HEADS:
            for rows in (1, 2, 3, 7, 16, 31, 64, 100, 256, 1000):
                plan = tiles.plan(kernel, device, rows=rows, heads=heads, widths=[128, 8192])
                if plan.splits > 1:
                    assert rows * heads * plan.splits * (512 * 4 + 4) <= 128 * 2**20


@DEVICES
@pytest.mark.parametrize(("entries", "most"), [(512, 256), (32, 256), (64, 4096), (1, 1)])
def test_the_workspace_is_bounded_where_the_user_asks_for_splits(
    device: object, entries: int, most: int
) -> None:
    """V4-Flash's C128A layers at a context of a million tokens: 512 entries would be 17 splits."""
    limits = tiles.Limits(entries=entries, rows=most)
    for heads in HEADS:
        for rows in (1, 100, 256, 4096):
            plan = tiles.plan(
                tiles.Kernel.DECODE_V4, device, rows=rows, heads=heads, widths=[128, 8192],
                limits=limits,
            )  # fmt: skip
            assert 1 <= plan.splits <= 260
            if plan.splits > 1:
                assert min(rows, most) * heads * plan.splits * (512 * 4 + 4) <= 128 * 2**20


@DEVICES
def test_heads_are_not_padded_beyond_what_a_dot_needs(device: object) -> None:
    for kernel in tiles.Kernel:
        for heads in HEADS:
            plan = tiles.plan(kernel, device, rows=1, heads=heads, widths=[64])
            assert plan.head_blocks * plan.tile.block_heads - heads < plan.tile.block_heads
            assert heads > 16 or plan.tile.block_heads == 16


@DEVICES
def test_a_batch_invariant_plan_is_the_same_for_every_batch(device: object) -> None:
    plans = {
        tiles.plan(
            tiles.Kernel.DECODE_V32, device, rows=rows, heads=64, widths=[2048],
            batch_invariant=True,
        )
        for rows in (1, 2, 63, 4096)
    }  # fmt: skip
    assert len(plans) == 1


def test_every_kernel_has_tiles_for_every_family() -> None:
    assert set(tiles.TABLE) == {(k, f) for k in tiles.Kernel for f in tiles.Family}
    for choices in tiles.TABLE.values():
        assert list(choices) == sorted(choices)
        for tile in choices.values():
            assert tile.warps <= tile.block_entries / 8


@pytest.mark.parametrize(
    ("capability", "family"), [((12, 0), "SM120"), ((12, 1), "SM121"), ((12, 3), "SM120")]
)
def test_a_device_is_known_by_its_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], family: str
) -> None:
    major, minor = capability
    found = types.SimpleNamespace(
        major=major, minor=minor, multi_processor_count=170, L2_cache_size=96 << 20
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    tiles.describe_device.cache_clear()
    device = tiles.describe_device(torch.device("cuda:0"))
    tiles.describe_device.cache_clear()
    assert device == tiles.Device(family=tiles.Family[family], sms=170, l2_bytes=96 << 20)
