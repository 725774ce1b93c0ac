# SPDX-License-Identifier: Apache-2.0
"""What stays as published although it is stale: for other Pythons, for another machine."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from recipe.compile.deepgemm import DeepGemm
from recipe.compile.native.fates import useless
from recipe.compile.native.members import with_files
from recipe.wheel.components import Action, Component
from tests.recipe.scripted import (
    DEEPGEMM,
    HERE,
    Scripted,
    add_patch,
    found,
    gone,
    plan,
)
from tests.recipe.world import MACHINE

PUBLISHED = ("310", "311", "312", "313", "314")
OTHERS = " and ".join(", ".join(f"3.{p[1:]}" for p in PUBLISHED if p != HERE).rsplit(", ", 1))


def test_a_compile_takes_a_component_from_no_python_unasked(scripted: Scripted) -> None:
    scripted.publish(PUBLISHED)
    add_patch(scripted)
    lost = f"compiled with Python 3.{HERE[1:]} it would be gone for Python {OTHERS}"
    planned = plan(scripted)  # upstream's wheel isn't in the cache yet
    assert found(planned, DEEPGEMM)[0] == "rebuild"

    built = scripted.world.build("--native", "auto", "--json")

    assert built.status == 0, built.err
    action, why = found(built.document, DEEPGEMM)
    assert (action, why) == found(plan(scripted), DEEPGEMM)
    assert action == "stale"
    what = "dg-test changes its compile and the series changes deepgemm (dg-test)"
    assert why == f"{what}; this wheel does not contain that: {lost}"
    assert pythons(scripted) == {*PUBLISHED}


def test_a_component_that_is_named_is_compiled_for_one_python_and_that_is_said(
    scripted: Scripted,
) -> None:
    scripted.publish(PUBLISHED)
    built = scripted.world.build("--native", DEEPGEMM, "--json")
    assert built.status == 0, built.err
    said = f"compiled for Python 3.{HERE[1:]}, it is gone for Python {OTHERS}"
    assert built.document["not_in_this_wheel"] == [f"{DEEPGEMM}: {said}"]
    assert said in built.err
    assert f"it will be gone for Python {OTHERS}" in built.err
    assert pythons(scripted) == {HERE}
    with zipfile.ZipFile(scripted.world.wheel()) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/sm12x/record.json")]
        assert said in archive.read(name).decode()


@pytest.mark.parametrize(
    ("carried", "asked", "spared"),
    [
        (False, ("12.0", "12.1"), True),
        (False, ("9.0", "12.1"), False),
        (True, ("12.1",), False),
        (None, ("12.1",), False),
    ],
)
def test_what_no_asked_device_can_use_is_no_loss(
    carried: bool | None, asked: tuple[str, ...], spared: bool
) -> None:
    theirs = DeepGemm(
        carried="1",
        pinned="2",
        carried_sm12x=carried,
        pinned_sm12x=True,
        problems=None,
        at_hand=False,
    )
    assert useless(theirs, asked) == ({DEEPGEMM} if spared else set())


@pytest.mark.parametrize(
    ("upstreams", "ours", "gone"),
    [
        (("_C.cpython-310-x", "_C.cpython-312-x"), ("_C.cpython-312-x",), "Python 3.10"),
        (("_C_extension.abi3",), ("_C.cpython-39-x",), "every Python but 3.9"),
        (("_C.cpython-312-x",), ("_C.cpython-312-x",), ""),
        (("_C.cpython-310-x",), ("_C_extension.abi3",), ""),
        ((), ("_C.cpython-310-x",), ""),
    ],
)
def test_a_whole_build_says_which_pythons_lost_a_component(
    upstreams: tuple[str, ...], ours: tuple[str, ...], gone: str
) -> None:
    component = Component(name=DEEPGEMM, files=(), action=Action.REBUILD, why="")
    before, after = (
        [f"vllm/third_party/deep_gemm/{name}.so" for name in names] for names in (upstreams, ours)
    )
    (made,) = with_files([component], before, after, {})
    assert made.files == tuple(after)
    assert made.lacks.endswith(f"it is gone for {gone}") if gone else made.lacks == ""


def test_a_component_that_only_this_python_has_is_compiled(scripted: Scripted) -> None:
    scripted.publish([HERE])
    add_patch(scripted)
    built = scripted.world.build("--native", "auto", "--json")
    assert built.status == 0, built.err
    assert found(built.document, DEEPGEMM)[0] == "rebuild"
    assert built.document["not_in_this_wheel"] == []


def pythons(made: Scripted) -> set[str]:
    """Those that DeepGEMM in the finished wheel is for."""
    with zipfile.ZipFile(made.world.wheel()) as archive:
        files = [name for name in archive.namelist() if "deep_gemm/_C" in name]
    return {name.partition(".cpython-")[2].partition("-")[0] for name in files}


@pytest.mark.skipif(MACHINE != "x86_64", reason="this machine compiles for itself")
def test_what_a_script_compiles_stays_as_published_for_another_machine(
    scripted: Scripted, tmp_path: Path
) -> None:
    add_patch(scripted)
    programs = {"PATH": str(path_of(tmp_path, "git", "tar"))}
    args = ("--platform", "aarch64")
    document = scripted.world.good("plan", "--json", *args, env=programs).document
    action, why = found(document, DEEPGEMM)
    assert action == "stale"
    assert why.endswith("upstream's script that compiles it can't cross to aarch64")
    options = ("build", "--no-test", "--out", str(scripted.world.out), *args)
    built = scripted.world.good(*options, "--native", "auto", "--json", env=programs)
    assert found(built.document, DEEPGEMM) == (action, why)
    for verb in (("plan", *args), options):
        named = scripted.world.run(*verb, "--native", DEEPGEMM, env=programs)
        assert named.status == 2
        assert f"{DEEPGEMM} of v9.1.0 is compiled by a script of upstream's" in named.err
        assert "a machine of aarch64" in named.next


@pytest.mark.skipif(MACHINE != "x86_64", reason="this machine compiles for itself")
def test_a_plan_wants_a_cross_compiler_only_for_what_is_at_hand(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.lift("kernels", scripted.kernels, {"csrc/more.cpp": b"\n"})
    programs = {"PATH": str(path_of(tmp_path, "git", "tar"))}
    args = ("plan", "--platform", "aarch64", "--json")
    assert scripted.world.run(*args, env=programs).status == 8
    away = gone(scripted.kernels)
    shutil.rmtree(scripted.world.cache / "store.git")
    try:
        document = scripted.world.good(*args, env=programs).document
    finally:
        away.root.rename(scripted.kernels.root)
    assert found(document, "_kernels_C")[0] == "rebuild"


def path_of(folder: Path, *names: str) -> Path:
    """A folder of these programs alone, for a PATH."""
    made = folder / "programs"
    made.mkdir()
    for name in names:
        program = shutil.which(name)
        assert program, name
        (made / name).symlink_to(program)
    return made
