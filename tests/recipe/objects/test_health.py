# SPDX-License-Identifier: Apache-2.0
"""A damaged object store is named with the command that mends it, and is whole after it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipe.objects import health
from tests.recipe.world import World


def packs(world: World, suffix: str) -> Path:
    """The pack of all that a small store holds, as git imports a large tree, or its list."""
    store = world.cache / "store.git"
    subprocess.run(["git", f"--git-dir={store}", "repack", "-adkq"], check=True)
    (found,) = (store / "objects" / "pack").glob(f"*{suffix}")
    return found


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def store_says(world: World, *args: str) -> dict[str, object]:
    findings = world.run("doctor", "--json", *args).document["findings"]
    (found,) = [one for one in findings if one["name"] == "object store"]
    return dict(found)


@pytest.mark.parametrize("suffix", [".pack", ".idx"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_one_flipped_bit_is_found_and_mended(world: World, suffix: str, part: float) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": b"ours\n"}))
    good = world.good("plan", "--json").document
    refs = world.refs()
    path = packs(world, suffix)
    flip(path, int(path.stat().st_size * part))

    assert not store_says(world)["good"]
    done = world.run("plan", "--json")
    assert "Traceback" not in done.err
    if done.status == 0:  # what it read wasn't hit
        assert done.document == good
    else:
        assert done.status == 3, done.err
        assert done.next == "python build.py doctor --mend"
    assert store_says(world, "--mend")["good"]
    assert world.good("plan", "--json").document == good
    assert world.refs() == refs
    assert health.damaged(world.cache / "store.git") == []


def test_a_damaged_loose_object_is_found(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": b"ours\n"}))
    good = world.good("plan", "--json").document
    store = world.cache / "store.git"
    loose = [path for path in (store / "objects").glob("??/*") if len(path.parent.name) == 2]
    for path in loose:
        flip(path, path.stat().st_size // 2)
    assert {path.name for path in health.damaged(store)} == {path.name for path in loose}
    assert store_says(world, "--mend")["good"]
    assert world.good("plan", "--json").document == good
