# SPDX-License-Identifier: Apache-2.0
"""`audit` of files that are no wheels, or are damaged: 6, with the member's name, never a fall."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from recipe.bases.releases import load_bases
from recipe.gpu.audit.wheels import open_wheel
from recipe.gpu.code import wheel_code
from recipe.ground.errors import AuditError
from recipe.wheel import read as wheel_read
from tests.recipe import small
from tests.recipe.fatbins import AXPY, MARLIN_BF16, unit
from tests.recipe.gpu.audit.test_audit_verb import audit, wheel
from tests.recipe.world import World

OBJECT = b"vllm/_C.abi3.so"
DIRECTORY = b"PK\x01\x02"
FLAGS, METHOD, SIZE, NAME = 8, 10, 24, 46  # fields of an entry of the directory


def entry_of(content: bytes, member: bytes) -> int:
    """Where a member's entry in the archive's directory begins."""
    return content.index(DIRECTORY + content[(at := content.rindex(member) - NAME) + 4 : at + NAME])


def not_a_wheel(content: bytes, how: str) -> bytes:
    if how == "a damaged member":
        at = content.index(OBJECT) + 200
        return content[:at] + bytes(64) + content[at + 64 :]
    return {
        "text": b"no archive\n",
        "cut off": content[: len(content) // 2],
        "empty": b"",
        "no zip of a wheel": b"PK\x05\x06" + bytes(18),
    }[how]


@pytest.mark.parametrize(
    "how", ["text", "cut off", "empty", "no zip of a wheel", "a damaged member"]
)
def test_what_is_no_wheel_is_said_with_6(world: World, tmp_path: Path, how: str) -> None:
    content = wheel(world, unit(tmp_path, ("120f",))).read_bytes()
    path = tmp_path / "bad.whl"
    path.write_bytes(not_a_wheel(content, how))
    done = audit(world, path)
    assert done.status == 6
    assert "bad.whl" in done.err
    assert done.next
    assert done.out == ""


@pytest.mark.parametrize("member", [OBJECT, b"vllm-9.1.0.dist-info/METADATA"])
@pytest.mark.parametrize(
    ("field", "kind", "value", "what"),
    [
        (FLAGS, "<H", 1, "encrypted"),
        (METHOD, "<H", 99, "compression method is not supported"),
        (METHOD, "<H", 12, "Invalid data stream"),
        (METHOD, "<H", 14, ""),
        (SIZE, "<I", 0xF0000000, "has 4026531840 bytes unpacked"),
    ],
)
def test_a_member_that_cant_be_unpacked_is_named(
    world: World, tmp_path: Path, member: bytes, field: int, kind: str, value: int, what: str
) -> None:
    content = bytearray(wheel(world, unit(tmp_path, ("120f",))).read_bytes())
    at = entry_of(bytes(content), member)
    struct.pack_into(kind, content, at + field, value)
    local = struct.unpack_from("<I", content, at + 42)[0]
    if field == METHOD:
        struct.pack_into(kind, content, local + METHOD - 2, value)
    path = tmp_path / "bad.whl"
    path.write_bytes(content)
    done = audit(world, path)
    assert done.status == 6, done.err
    assert "bad.whl" in done.err
    assert member.decode() in done.err
    assert what in done.err
    assert done.next == "fetch or build the wheel again"


def test_whatever_bytes_of_a_wheel_are_flipped_only_our_error_comes_out(
    world: World, tmp_path: Path
) -> None:
    """Seeded, so that a failure comes again; half of the flips are in the archive's directory."""
    fat = unit(tmp_path, ("80", "120f"), ("80",), kernels=(AXPY, MARLIN_BF16))
    good = wheel(world, fat).read_bytes()
    bases = load_bases(world.root / "bases.toml")
    directory = good.index(DIRECTORY)
    path = tmp_path / "bad.whl"
    chance = random.Random(8)
    found = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(chance.choice((1, 2, 4))):
            places = (range(directory, len(good)), range(len(good)))
            content[chance.choice(chance.choice(places))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            open_wheel(path, bases)
            wheel_code(path)
        except AuditError as error:
            assert error.next
            found += 1
    assert 0 < found < 400


def test_a_member_is_not_unpacked_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(small.make_wheel())
    monkeypatch.setattr(wheel_read, "LARGEST_OBJECT", len(small.shared_object()) - 1)
    with pytest.raises(AuditError, match=r"x\.whl: vllm/_C\.abi3\.so has"):
        wheel_code(path)


def test_a_wheel_without_shared_objects_is_said_with_6(world: World, tmp_path: Path) -> None:
    path = tmp_path / "pure.whl"
    text = small.make_wheel().replace(b"vllm/_C.abi3.so", b"vllm/_C.abi3.py")
    path.write_bytes(text)
    done = audit(world, path)
    assert done.status == 6
    assert "has no shared object" in done.err


def test_damaged_gpu_code_is_said_with_6(world: World, tmp_path: Path) -> None:
    fat = unit(tmp_path, ("120f",))
    done = audit(world, wheel(world, b"\1" + fat[1:]))
    assert done.status == 6
    assert ".whl: vllm/_C.abi3.so: no fat binary at byte 0" in done.err
    assert done.next == "look at it with NVIDIA's tool: cuobjdump --list-elf _C.abi3.so"
