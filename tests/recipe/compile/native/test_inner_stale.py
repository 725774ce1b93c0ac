# SPDX-License-Identifier: Apache-2.0
"""Inner sources that aren't upstream's: what they make stale, and what a plan says of it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipe.bases.releases import InnerPin
from recipe.compile.native.inner_stale import is_pinned
from tests.recipe.repo import new_repository
from tests.recipe.scripted import (
    API,
    BETTER,
    DEEPGEMM,
    HERE,
    SCRIPT,
    Scripted,
    add_patch,
    found,
    gone,
    plan,
)


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
