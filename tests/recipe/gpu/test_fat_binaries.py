# SPDX-License-Identifier: Apache-2.0
"""Reading GPU code: each target with its suffix, each kernel, compressed or not; and damage."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest

from recipe.gpu.fatbin import ENTRY, BadCode, Kind, read
from tests.recipe import small
from tests.recipe.fatbins import AXPY, MARLIN_BF16, MODES, run, shared_object, unit

SASS = ("80", "90a", "120", "120a", "120f", "121", "121a")
PTX = ("80", "120f")


def flags(fat: bytes) -> set[int]:
    """The two compression bits of each entry."""
    found, at = set(), 16
    while at < len(fat):
        entry = ENTRY.unpack_from(fat, at)
        found.add(entry[11] & 0xA000)
        at += entry[2] + entry[3]
    return found


@pytest.mark.parametrize("mode", MODES)
def test_every_target_is_read_with_its_suffix_as_cuobjdump_has_it(
    tmp_path: Path, mode: str
) -> None:
    fat = unit(tmp_path, SASS, PTX, kernels=(AXPY, MARLIN_BF16), mode=mode)
    assert MODES[mode] in flags(fat)

    (images,) = read(shared_object(fat))
    found = [(image.kind, image.target.replace(".", "")) for image in images]

    assert sorted(found) == sorted(
        [(Kind.SASS, target) for target in SASS] + [(Kind.PTX, target) for target in PTX]
    )
    assert {image.kernels for image in images} == {frozenset({AXPY, MARLIN_BF16})}
    listed = run("cuobjdump", "-elf", "-ptx", tmp_path / "code.fatbin")
    theirs = re.findall(r"^Fatbin (elf|ptx) code:\n=+\narch = sm_(\w+)$", listed, re.MULTILINE)
    assert [(("sass" if kind == "elf" else kind), target) for kind, target in theirs] == found


def test_each_translation_unit_stays_by_itself(tmp_path: Path) -> None:
    first = unit(tmp_path / "a", ("80",), ("80",))
    second = unit(tmp_path / "b", ("120f",), mode="size")
    units = read(shared_object(first, bytes(64), second))
    assert [[(i.kind, i.target) for i in one] for one in units] == [
        [("sass", "8.0"), ("ptx", "8.0")],
        [("sass", "12.0f")],
    ]


def test_code_linked_on_the_device_is_read_too(tmp_path: Path) -> None:
    units = read(shared_object(unit(tmp_path, ("121",)), section="__nv_relfatbin"))
    assert [image.target for (image,) in units] == ["12.1"]


def test_an_entry_of_another_kind_is_left_out(tmp_path: Path) -> None:
    fat = bytearray(unit(tmp_path, ("80", "120")))
    struct.pack_into("<H", fat, 16, 8)  # what nvcc writes for link-time optimisation
    assert [[i.target for i in one] for one in read(shared_object(bytes(fat)))] == [["12.0"]]


def test_an_object_without_gpu_code_has_none() -> None:
    assert read(small.shared_object()) == []


def damaged(fat: bytes, how: str) -> bytes:
    match how:
        case "cut off":
            return shared_object(fat[:-512])
        case "no magic":
            return shared_object(b"\x01" + fat[1:])
        case "an entry too long":
            return shared_object(fat[:24] + struct.pack("<Q", 1 << 40) + fat[32:])
        case "a size nobody has":
            return shared_object(fat[:72] + struct.pack("<Q", 1 << 60) + fat[80:])
        case "no length at all":
            return shared_object(fat[:6] + bytes(10) + fat[16:])
        case "other bytes":
            return shared_object(fat[:400] + bytes(64) + fat[464:])
        case "no ELF file":
            return fat
        case "an ELF file cut off":
            return shared_object(fat)[:500]
        case _:
            return b""


@pytest.mark.parametrize("mode", ["speed", "size"])
@pytest.mark.parametrize(
    "how",
    [
        "cut off",
        "no magic",
        "an entry too long",
        "a size nobody has",
        "no length at all",
        "other bytes",
        "no ELF file",
        "an ELF file cut off",
        "nothing",
    ],
)
def test_damage_is_found(tmp_path: Path, how: str, mode: str) -> None:
    fat = unit(tmp_path, ("120f",), mode=mode)
    with pytest.raises(BadCode):
        read(damaged(fat, how))


@pytest.mark.parametrize("mode", MODES)
def test_whatever_bytes_are_flipped_nothing_but_its_own_error_comes_out(
    tmp_path: Path, mode: str
) -> None:
    """Seeded, so that a failure comes again; headers are hit more often than their share."""
    good = shared_object(unit(tmp_path, ("80", "120f"), ("80",), mode=mode))
    chance = random.Random(mode)
    found = 0
    for _ in range(500):
        content = bytearray(good)
        for _ in range(chance.choice((1, 2, 4, 16))):
            places = (range(200), range(len(good)), range(len(good) - 260, len(good)))
            content[chance.choice(chance.choice(places))] = chance.randrange(256)
        try:
            read(bytes(content))
        except BadCode:
            found += 1
    assert 0 < found < 500
