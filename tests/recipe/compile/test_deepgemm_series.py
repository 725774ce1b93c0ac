# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM has a series of its own, which goes on its pinned commit as vLLM's goes on vLLM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recipe.compile.inner.find import Request, Series
from recipe.compile.inner.folders import inner_sources
from recipe.series.overlay import OverlayFile
from tests.recipe.inners import Inner
from tests.recipe.repo import Repository, new_repository, numbered, read
from tests.recipe.world import World


def deepgemm(world: World, tmp_path: Path) -> tuple[Repository, str, str]:
    """A repository of it with two commits, upstream's pin and the lifted one, and a patch."""
    repository = new_repository(tmp_path / "deepgemm", {"csrc/api.hpp": numbered(9)})
    old = repository.text("rev-parse", "HEAD")
    new = repository.commit({"csrc/sm120.hpp": b"// kernels\n"})
    bases = world.root / "bases.toml"
    text = bases.read_text(encoding="utf-8").replace("https://deepgemm.example/x.git", "REPO")
    text = text.replace("ab" * 20, old)
    text += f'lifted.deepgemm = {{ repository = "REPO", pin = "{new}", why = "kernels" }}\n'
    bases.write_text(text.replace("REPO", str(repository.root)), encoding="utf-8")
    change = {"csrc/api.hpp": numbered(9).replace(b"line 5", b"ours 5")}
    patch = repository.patch(change, Topic="dg", Components="_deep_gemm_C")
    folder = world.root / "patches" / "deepgemm"
    folder.mkdir()
    (folder / "dg.patch").write_bytes(patch)
    with (world.root / "series.txt").open("a", encoding="utf-8") as series:
        series.write("deepgemm/dg.patch\n")
    return repository, old, new


def test_apply_writes_the_lifted_commit_with_its_patches(world: World, tmp_path: Path) -> None:
    _, _, new = deepgemm(world, tmp_path)
    tree = tmp_path / "tree"
    world.good("apply", "--upstream", "deepgemm", "--base", "v9.1.0", "--tree", str(tree))
    assert b"ours 5" in (tree / "csrc/api.hpp").read_bytes()
    assert (tree / "csrc/sm120.hpp").is_file()
    written = Repository(root=tree)
    assert written.text("rev-parse", "base-v9.1.0^{commit}") == new
    assert written.text("log", "--format=%s", "base-v9.1.0..") == "Change it"


def test_vllms_own_tree_has_none_of_it(world: World, tmp_path: Path) -> None:
    deepgemm(world, tmp_path)
    tree = tmp_path / "tree"
    world.good("apply", "--base", "v9.1.0", "--tree", str(tree))
    assert not (tree / "csrc/sm120.hpp").exists()


def test_the_folder_for_cmake_has_the_series_and_the_overlay(inner: Inner, tmp_path: Path) -> None:
    plain = inner.ask("_kernels_C", offline=False)["kernels"]
    clone = tmp_path / "clone"
    inner.kernels.git("clone", "--quiet", "--no-recurse-submodules", ".", str(clone))
    patch = read(
        tmp_path, Repository(root=clone).patch({"csrc/api.cpp": b"int ours;\n"}, Components="none")
    )
    added = OverlayFile(path="csrc/added.hpp", content=b"// ours\n")
    request = Request(
        base=inner.base,
        needed=["_kernels_C"],
        series={"kernels": Series(patches=(patch,), files=(added,))},
    )
    found = inner_sources(inner.project, inner.commit, request)
    kernels = next(one for one in found if one.name == "kernels")
    assert (kernels.folder / "csrc/api.cpp").read_bytes() == b"int ours;\n"
    assert (kernels.folder / "csrc/added.hpp").is_file()
    assert (kernels.folder / "third-party/fmt/include/fmt/format.h").is_file()
    assert kernels.identity != plain.identity
    assert (plain.folder / "csrc/api.cpp").read_bytes() == b"int a;\n"
    only = replace(request, series={"cutlass": Series(patches=(patch,))})
    again = inner_sources(inner.project, inner.commit, only)
    assert next(one for one in again if one.name == "kernels").identity == plain.identity
