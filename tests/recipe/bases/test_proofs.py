# SPDX-License-Identifier: Apache-2.0
"""What a source is follows from its pin, never from a ref of the store, which anybody can move."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipe.bases.releases import load_bases
from recipe.compile.inner.package import PACKAGES, check_package
from recipe.ground.errors import SourceError
from recipe.objects.archive import import_entries
from recipe.objects.gate.names import Entry
from recipe.objects.git import Store, open_store
from recipe.objects.ids import import_id, tree_id
from tests.recipe import small
from tests.recipe.inners import Inner
from tests.recipe.world import World

FOREIGN = [Entry(path="vllm/evil.py", mode="100644", content=b"evil\n")]


def store_of(world: World) -> Store:
    return open_store(world.cache / "store.git")


def foreign(store: Store) -> str:
    return import_entries(store, FOREIGN, "refs/foreign", "foreign\n")


def refs(store: Store, below: str) -> dict[str, str]:
    rows = store.text("for-each-ref", "--format=%(refname) %(objectname)", below).splitlines()
    return dict(row.split() for row in rows)


def pin(world: World, proof: str) -> None:
    text = small.bases_toml(world.sdist, world.wheels, proof=proof)
    (world.root / "bases.toml").write_text(text, encoding="utf-8")


def true_tree(world: World, tmp_path: Path) -> str:
    """The archive's tree, by GNU tar and git."""
    archive, folder = tmp_path / "sdist.tar.gz", tmp_path / "true"
    archive.write_bytes(world.sdist)
    folder.mkdir()
    unpack = ["tar", "-xpf", str(archive), "--strip-components=1", "-C", str(folder)]
    subprocess.run(unpack, check=True)
    git = ["git", "-C", str(folder), "-c", "core.autocrlf=false"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--all", "--force"], check=True)
    found = subprocess.run([*git, "write-tree"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


@pytest.mark.parametrize("pinned", [False, True])
def test_a_moved_ref_of_an_archive_is_noticed_and_set_anew(
    world: World, tmp_path: Path, pinned: bool
) -> None:
    tree = true_tree(world, tmp_path)
    if pinned:
        pin(world, f', size = {len(world.sdist)}, tree = "{tree}"')
    world.good("plan")
    store = store_of(world)
    ((ref, commit),) = refs(store, "refs/sm12x/sdist").items()
    assert store.tree_of(commit) == tree
    same_tree = store.commit(tree, None, message="another commit of the same tree\n")
    for moved in (foreign(store), same_tree):
        store.set_ref(ref, moved)

        done = world.good("apply", "--offline", "--tree", str(tmp_path / moved))

        assert f"the store's {ref} was moved away from {small.SDIST}" in done.err
        assert refs(store, ref) == {ref: commit}
        assert not (tmp_path / moved / "vllm" / "evil.py").exists()
        assert "was moved" not in world.good("plan", "--offline").err


@pytest.mark.parametrize("cached", [False, True])
def test_an_archive_of_another_tree_than_is_pinned_is_refused(world: World, cached: bool) -> None:
    if cached:
        world.good("plan")
    pin(world, f', tree = "{"12" * 20}"')

    done = world.run("plan")

    assert done.status == 3
    assert f"bases.toml pins {'12' * 20}" in done.err
    assert done.next == "python build.py bases add v9.1.0"
    assert refs(store_of(world), "refs/sm12x/sdist") == {}


def test_the_commit_of_a_tree_is_known_before_it_is_made(store: Store) -> None:
    made = import_entries(store, FOREIGN, "refs/x", "m\u00fcll\n\nbody\n")
    assert made == import_id(tree_id(FOREIGN), "m\u00fcll\n\nbody\n")


@pytest.mark.parametrize("digits", [9, 40])
def test_a_moved_ref_of_a_git_source_is_not_used(world: World, digits: int) -> None:
    """A whole id names a commit that the store still has; by its first digits a server is asked."""
    world.upstream.git("tag", "v9.1.0")
    head = world.upstream.text("rev-parse", "HEAD")
    text = small.bases_toml(world.sdist, world.wheels, commit=head[:digits])
    (world.root / "bases.toml").write_text(text, encoding="utf-8")
    url = f"file://{world.upstream.root}"
    world.good("plan", "--source", url)
    store = store_of(world)
    ((ref, _),) = refs(store, "refs/sm12x/git").items()
    store.set_ref(ref, foreign(store))

    offline = world.run("plan", "--source", url, "--offline")
    assert offline.status == (0 if digits == 40 else 3)
    assert f"the store's {ref} was moved away" in offline.err
    world.good("plan", "--source", url)
    assert refs(store, ref) == {ref: head}


@pytest.mark.parametrize("known", [False, True])
def test_moved_refs_of_inner_sources_change_nothing(inner: Inner, known: bool) -> None:
    wanted = ("_moe_C", "_kernels_C")
    head = inner.cutlass.text("rev-parse", "HEAD")
    pinned = inner.pinned("cutlass", commit=head) if known else inner
    first = pinned.ask(*wanted, offline=False)
    store = open_store(inner.project.store)
    evil = foreign(store)
    places = ("refs/sm12x/inner", "refs/sm12x/inner-tag-at")
    moved = {ref: at for place in places for ref, at in refs(store, place).items()}
    assert len(moved) == 3
    for ref in moved:
        store.set_ref(ref, evil)
    assert pinned.ask(*wanted, offline=True) == first
    assert {ref: at for place in places for ref, at in refs(store, place).items()} == moved


def test_an_inner_source_of_another_tree_than_is_pinned_is_refused(inner: Inner) -> None:
    kernels = inner.ask("_kernels_C", offline=False)["kernels"]
    good = inner.pinned("kernels", tree=kernels.identity)
    assert good.ask("_kernels_C")["kernels"] == kernels
    bad = inner.pinned("kernels", tree="12" * 20)
    with pytest.raises(SourceError, match=f"bases.toml pins {'12' * 20}"):
        bad.ask("_kernels_C")


def test_what_a_package_gives_is_held_to_its_tree() -> None:
    for package in PACKAGES.values():
        with pytest.raises(SourceError, match=f"{package.tree} is pinned"):
            check_package(package, FOREIGN)


def test_pins_without_a_proof_are_still_taken(world: World) -> None:
    assert load_bases(world.root / "bases.toml").releases[0].sdist.tree is None
    world.good("plan")
