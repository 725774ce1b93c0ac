# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of this machine's compiler and of the programs that a compile needs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from recipe.cli.failure import UNFORESEEN
from recipe.cli.main import EPILOG
from recipe.compile.toolchain.symbols import readelf
from recipe.ground.errors import INTERRUPTED, MachineError, RecipeError
from tests.recipe import small
from tests.recipe.world import MACHINE, World

WANTS = b'if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS "%s")\nendif()\n'


def compiler_of(world: World) -> tuple[bool, str]:
    (found,) = [
        finding
        for finding in world.run("doctor", "--json").document["findings"]
        if finding["name"] == "compiler"
    ]
    return found["good"], found["detail"]


def wanting(world: World, gcc: bytes) -> World:
    """The world, once the source of its release is in the store; its CMake wants that GCC."""
    sdist = small.make_sdist({**small.TREE, "CMakeLists.txt": small.CMAKE + WANTS % gcc})
    world.index.add("vllm", small.SDIST, sdist)
    text = small.bases_toml(sdist, world.wheels)
    (world.root / "bases.toml").write_text(text, encoding="utf-8")
    world.good("plan")
    return world


def test_a_compiler_that_a_release_refuses_is_not_in_order(world: World) -> None:
    good, detail = compiler_of(wanting(world, b"99"))
    assert not good
    assert f"too old for {small.TAG} (GCC 99)" in detail
    done = world.run("doctor")
    assert done.status == 8
    assert "--native none" in done.out


def test_a_compiler_that_every_release_takes_is_in_order(world: World) -> None:
    good, detail = compiler_of(wanting(world, b"1.0"))
    assert good
    assert "too old" not in detail


def test_without_a_source_nobody_can_say_what_it_wants(world: World) -> None:
    good, detail = compiler_of(world)
    assert good
    assert "known once a source was fetched" in detail
    assert not world.cache.exists()


def path_of(folder: Path, *names: str) -> str:
    for name in names:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return str(folder)


def test_a_machine_without_readelf_lacks_something(world: World, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    path = path_of(programs, "git", "tar", "c++", "g++")
    done = world.run("doctor", env={"PATH": path})
    assert done.status == 8
    assert "LACKS readelf" in done.out
    assert "apt-get install binutils" in done.out


def test_a_missing_readelf_is_an_error_with_an_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="readelf is not on the PATH") as stopped:
        readelf()
    assert stopped.value.exit_code == 8


@pytest.mark.skipif(MACHINE != "x86_64", reason="aarch64 has no cross compiler here")
def test_the_cross_compilers_readelf_will_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "aarch64-linux-gnu-readelf"
    other.write_text("#!/bin/sh\n", encoding="utf-8")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert readelf() == str(other)


def test_the_help_names_every_exit_code() -> None:
    named = {int(number) for number in re.findall(r"(?:^|[;:\n] ?)\s*(\d+) ", EPILOG)}
    codes = {kind.exit_code for kind in RecipeError.__subclasses__()}
    assert named == codes | {0, UNFORESEEN, INTERRUPTED}
