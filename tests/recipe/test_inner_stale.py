# SPDX-License-Identifier: Apache-2.0
"""Inner sources that aren't upstream's: what they make stale, and what a plan says of it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.config import InnerPin
from recipe.inner_stale import is_pinned
from recipe.native import Action, Component
from recipe.native_members import with_files
from recipe.native_plan import Settled
from recipe.native_stage import Native
from tests.recipe import small
from tests.recipe.repo import Repository, new_repository
from tests.recipe.scripted import API, HERE, SCRIPT, Scripted, make_scripted
from tests.recipe.server import serve
from tests.recipe.world import MACHINE

DEEPGEMM = "_deep_gemm_C"
BETTER = (API % b"_C").replace(b"return 1", b"return 2")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[Scripted]:
    """One world for the module, with its build environment made."""
    with serve() as index:
        made = make_scripted(tmp_path_factory.mktemp("scripted"), index, code)
        built = made.world.build("--native", "_C", "--json")
        assert built.status == 0, built.err
        yield made


@pytest.fixture
def scripted(shared: Scripted) -> Iterator[Scripted]:
    """The world as it was made, with no inner source in its cache."""
    world = shared.world
    files = [world.root / "bases.toml", world.root / "series.txt"]
    before = [path.read_bytes() for path in files]
    heads = {one: one.text("rev-parse", "HEAD") for one in (shared.deepgemm, shared.kernels)}
    wheels = dict(world.wheels)
    yield shared
    for path, content in zip(files, before, strict=True):
        path.write_bytes(content)
    for one, head in heads.items():
        one.git("reset", "--quiet", "--hard", head)
        one.git("clean", "--quiet", "-fdx")
    world.wheels.update(wheels)
    for machine, content in wheels.items():
        world.index.add("vllm", small.WHEELS[machine], content)
    shutil.rmtree(world.root / "patches" / "deepgemm", ignore_errors=True)
    for folder in (world.out, world.cache / "native", world.cache / "inner"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(world.cache / "store.git")


def plan(made: Scripted, *args: str) -> dict[str, Any]:
    return made.world.good("plan", "--json", *args).document


def found(document: dict[str, Any], name: str) -> tuple[str, str]:
    """(action, why) of a component."""
    (one,) = [one for one in document["components"] if one["name"] == name]
    return one["action"], one["why"]


def gone(repository: Repository) -> Repository:
    """Put a repository where nobody finds it."""
    return Repository(root=repository.root.rename(repository.root.with_name("gone")))


@pytest.fixture
def unreachable(scripted: Scripted) -> Iterator[Scripted]:
    """The world with DeepGEMM lifted to a commit that is nowhere to be had."""
    scripted.lift("deepgemm", scripted.deepgemm, {"csrc/api.cpp": BETTER})
    away = gone(scripted.deepgemm)
    yield scripted
    away.root.rename(scripted.deepgemm.root)


@pytest.mark.parametrize("environment", [True, False])
def test_a_plan_says_what_is_compiled_only_if_its_source_can_be_fetched(
    unreachable: Scripted, environment: bool
) -> None:
    args: tuple[str, ...] = ()
    if not environment:
        other = other_python()
        unreachable.publish([other.replace(".", "")])
        args = ("--python", other)
    document = plan(unreachable, *args)
    action, why = found(document, DEEPGEMM)
    assert action == "rebuild"
    assert "bases.toml lifts deepgemm" in why
    assert f"if deepgemm ({unreachable.deepgemm.root} at " in why
    assert why.endswith("can be fetched, else the published one stays")
    carried = document["deepgemm"]
    assert carried["carried"] != carried["pinned"]
    assert carried["compiled_if_fetched"]
    said = unreachable.world.good("plan", *args).out
    assert f"deepgemm   {carried['carried'][:9]} " in said
    assert "is compiled; else the published one is kept" in said
    assert document["components_measured"] == environment


def other_python() -> str:
    """A Python of this machine, for which no build environment is in the cache."""
    for minor in range(10, 15):
        if f"3{minor}" != HERE and shutil.which(f"python3.{minor}"):
            return f"3.{minor}"
    pytest.skip("this machine has one Python alone")


def test_an_offline_plan_keeps_what_an_offline_build_keeps(unreachable: Scripted) -> None:
    document = plan(unreachable, "--offline")
    action, why = found(document, DEEPGEMM)
    assert action == "stale"
    assert "this wheel does not contain that: deepgemm (" in why
    said = unreachable.world.good("plan", "--offline").out
    assert "the published one is kept: deepgemm (" in said
    assert not document["deepgemm"]["compiled_if_fetched"]
    built = unreachable.world.build("--native", "auto", "--offline", "--json")
    assert built.status == 0, built.err
    assert found(built.document, DEEPGEMM) == (action, why)


def add_patch(made: Scripted) -> None:
    change = made.deepgemm.patch({"csrc/api.cpp": BETTER}, Topic="dg-test", Components=DEEPGEMM)
    made.deepgemm.git("reset", "--quiet", "--hard", "HEAD~1")
    made.add_inner_patch(change)


def test_an_inner_series_makes_its_components_stale(scripted: Scripted) -> None:
    assert found(plan(scripted), DEEPGEMM)[0] == "reuse"
    add_patch(scripted)
    assert found(plan(scripted), DEEPGEMM) == ("rebuild", "the series changes deepgemm (dg-test)")
    left = plan(scripted, "--native", "none")
    assert found(left, DEEPGEMM)[1].startswith("dg-test changes its compile; this wheel does not")

    built = scripted.world.build("--native", "auto", "--json")

    assert built.status == 0, built.err
    assert found(built.document, DEEPGEMM)[0] == "rebuild"
    assert [*built.document["native"]["components"]] == [DEEPGEMM]
    with zipfile.ZipFile(scripted.world.wheel()) as archive:
        assert b"# ours" in archive.read("vllm/third_party/deep_gemm/__init__.py")
        (record,) = [n for n in archive.namelist() if n.endswith("/sm12x/record.json")]
        (source,) = json.loads(archive.read(record))["compiled"]["inner"]
    assert "with 1 patches" in source["origin"]


def test_a_source_named_by_hand_makes_its_components_stale(
    scripted: Scripted, tmp_path: Path
) -> None:
    pinned = f"kernels={scripted.kernels.root}"
    assert found(plan(scripted, "--sources", pinned), "_kernels_C")[0] == "reuse"
    mine = tmp_path / "mine"
    shutil.copytree(scripted.kernels.root, mine, ignore=shutil.ignore_patterns(".git"))
    document = plan(scripted, "--sources", f"kernels={mine}")
    assert found(document, "_kernels_C") == ("rebuild", "--sources names another kernels")
    assert found(document, "_moe_C")[0] == "reuse"


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
    assert f"it would be gone for Python {OTHERS}" in built.err
    assert pythons(scripted) == {HERE}
    with zipfile.ZipFile(scripted.world.wheel()) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/sm12x/record.json")]
        assert said in archive.read(name).decode()


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
    native = Native(settled=Settled(components=(component,), measured=False))
    before, after = (
        [f"vllm/third_party/deep_gemm/{name}.so" for name in names] for names in (upstreams, ours)
    )
    (made,) = with_files([component], before, after, native)
    assert made.files == tuple(after)
    assert made.lacks.endswith(f"it is gone for {gone}") if gone else made.lacks == ""


def test_a_component_that_only_this_python_has_is_compiled(scripted: Scripted) -> None:
    scripted.publish([HERE])
    add_patch(scripted)
    built = scripted.world.build("--native", "auto", "--json")
    assert built.status == 0, built.err
    assert found(built.document, DEEPGEMM)[0] == "rebuild"
    assert built.document["not_in_this_wheel"] == []


def test_the_script_that_compiles_a_component_is_part_of_it(scripted: Scripted) -> None:
    world = scripted.world
    first = keys(scripted, DEEPGEMM)
    louder = SCRIPT + b'print("done")\n'
    world.add_patch(
        "louder.patch",
        world.upstream.patch({"tools/build_deepgemm_C.py": louder}, Components=DEEPGEMM),
    )
    try:
        action, why = found(plan(scripted), DEEPGEMM)
        assert (action, why) == ("rebuild", "the series changes 1 file (build_deepgemm_C.py)")
        assert keys(scripted, DEEPGEMM) != first
    finally:
        world.upstream.git("reset", "--quiet", "--hard", "HEAD~1")
        (world.root / "patches" / "vllm" / "louder.patch").unlink()


def test_other_components_of_a_run_are_no_part_of_a_components_key(scripted: Scripted) -> None:
    alone = keys(scripted, "_moe_C,_kernels_C")
    both = keys(scripted, f"_moe_C,_kernels_C,{DEEPGEMM}")
    assert {name: both[name] for name in alone} == alone
    assert set(both) == {*alone, DEEPGEMM}
    change = {"csrc/api.cpp": (API % b"_kernels_C") + b"int more;\n"}
    scripted.lift("kernels", scripted.kernels, change)
    lifted = keys(scripted, f"_moe_C,_kernels_C,{DEEPGEMM}")
    changed = {name for name in both if lifted[name] != both[name]}
    assert changed == {"_kernels_C"}


def keys(made: Scripted, names: str) -> dict[str, str]:
    """The keys of components that are compiled by name."""
    built = made.world.build("--native", names, "--json")
    assert built.status == 0, built.err
    shutil.rmtree(made.world.out)
    found: dict[str, str] = built.document["native"]["components"]
    return found


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


def test_any_lifted_source_makes_its_components_stale(scripted: Scripted) -> None:
    new = scripted.lift("kernels", scripted.kernels, {"csrc/more.cpp": b"\n"})
    action, why = found(plan(scripted), "_kernels_C")
    assert action == "rebuild"
    assert why.startswith("bases.toml lifts kernels from ")
    assert why.endswith(f" to {new[:9]}")


def test_a_work_tree_is_the_pin_only_as_it_was_committed(tmp_path: Path) -> None:
    made = new_repository(tmp_path / "made", {"a": b"1\n"})
    made.git("tag", "v1")
    head = made.text("rev-parse", "HEAD")
    by_tag, by_commit = (InnerPin(name="x", repository="r", pin=one) for one in ("v1", head))
    assert is_pinned(made.root, by_tag)
    assert is_pinned(made.root, by_commit)
    (made.root / "b").write_bytes(b"")
    assert not is_pinned(made.root, by_commit)
    made.commit({})
    assert not is_pinned(made.root, by_tag)
    assert not is_pinned(made.root, InnerPin(name="x", repository="r", pin="v2"))
    assert not is_pinned(tmp_path, by_tag)
