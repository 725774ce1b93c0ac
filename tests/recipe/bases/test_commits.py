# SPDX-License-Identifier: Apache-2.0
"""A base is a commit: a candidate, a branch's head or any commit of a mirror; and old layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.bases import pins
from recipe.bases.releases import load_bases
from recipe.ground.errors import ConfigError
from tests.recipe import small
from tests.recipe.bases.test_pinning import TREE
from tests.recipe.repo import Repository, new_repository
from tests.recipe.world import World


@pytest.fixture
def mirror(tmp_path: Path) -> Repository:
    """Upstream's repository as a bare mirror: two tags, and commits after them on main."""
    made = new_repository(tmp_path / "up", TREE)
    made.git("tag", "v9.1.0")
    made.commit({"vllm/a.py": b"a\n"}, "one")
    made.git("tag", "v9.2.0rc1")
    made.commit({"vllm/b.py": b"b\n"}, "two")
    made.commit({"vllm/c.py": b"c\n"}, "three")
    made.git("clone", "--quiet", "--bare", str(made.root), str(tmp_path / "mirror.git"))
    return Repository(root=tmp_path / "mirror.git")


def add(world: World, mirror: Repository, *names: str) -> None:
    world.good("bases", "add", *names, "--source", str(mirror.root))


def test_a_branchs_head_is_a_base_between_releases(world: World, mirror: Repository) -> None:
    add(world, mirror, "main")
    bases = load_bases(world.root / "bases.toml")
    base = bases.find("main")
    assert base.commit == mirror.text("rev-parse", "main")
    assert base.tag == "v9.2.0rc2.dev2"
    assert base.torch == "2.12.0" and base.wheels == {}
    assert bases.find("latest").tag == small.TAG  # the newest final release
    assert bases.find(base.commit[:9]) is base
    folder = world.root.parent / "tree"
    world.add_patch("a.patch", world.upstream.patch({"vllm/new.py": b"new\n"}))
    world.good("apply", "--base", "main", "--tree", str(folder), "--offline")
    assert (folder / "vllm" / "c.py").exists() and (folder / "vllm" / "new.py").exists()
    assert world.good("bases", "check", "--json").document["newer"] == []


def test_candidates_and_commits_sort_where_they_belong(world: World, mirror: Repository) -> None:
    commit = mirror.text("rev-parse", "main~1")
    add(world, mirror, "main", "v9.2.0rc1", commit)
    tags = [base.tag for base in load_bases(world.root / "bases.toml").releases]
    assert tags == ["v9.1.0", "v9.2.0rc1", "v9.2.0rc2.dev1", "v9.2.0rc2.dev2"]
    before = (world.root / "bases.toml").read_bytes()
    add(world, mirror, commit[:9])  # what a mirror on this disk knows by fewer digits
    assert load_bases(world.root / "bases.toml").find(commit).commit == commit
    add(world, mirror, commit)
    assert (world.root / "bases.toml").read_bytes() == before


def test_without_a_history_it_comes_after_the_newest_release(
    world: World, mirror: Repository, tmp_path: Path
) -> None:
    shallow = tmp_path / "shallow.git"
    options = ("--quiet", "--bare", "--depth=1", "--no-tags")
    mirror.git("clone", *options, mirror.root.as_uri(), str(shallow))
    done = world.good("bases", "add", "main", "--source", str(shallow))
    assert "no history says which release it comes after" in done.err
    assert load_bases(world.root / "bases.toml").find("main").tag.startswith("v9.1.1.dev")


def test_a_nightlys_wheel_is_pinned_by_its_hash(
    world: World, mirror: Repository, tmp_path: Path
) -> None:
    wheel = tmp_path / "vllm-9.2.0rc2.dev2-cp38-abi3-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(small.make_wheel())
    world.good("bases", "add", "main", "--source", str(mirror.root), "--wheel", str(wheel))
    base = load_bases(world.root / "bases.toml").find("main")
    assert base.wheels["x86_64"].sha256 == small.sha256(wheel.read_bytes())
    assert base.components == ("_C",)
    kept = world.cache / "downloads" / base.wheels["x86_64"].sha256 / wheel.name
    assert kept.read_bytes() == wheel.read_bytes()


def test_what_is_not_there_leaves_the_pins(world: World, mirror: Repository) -> None:
    before = (world.root / "bases.toml").read_bytes()
    for name in ("nightly", "v9.9.0rc1", "0" * 40, "../x"):
        done = world.run("bases", "add", name, "--source", str(mirror.root))
        assert done.status in (2, 3), done.err
        assert done.next
    assert (world.root / "bases.toml").read_bytes() == before


# As the archives have them: v0.6.1.post2's layout, v0.19.1's version file.
OLD = {
    "vllm/commit_id.py": '__commit__ = "9ba0817ff1eb514f51cc6de9cb8e16c98d6ee44f"\n',
    "requirements-cuda.txt": "-r requirements-common.txt\ntorch == 2.4.0\n",
    "pyproject.toml": "[build-system]\nrequires = []\n",
    "setup.py": 'MAIN_CUDA_VERSION = "12.1"\nsetup(\n    python_requires=">=3.8",\n)\n',
    "CMakeLists.txt": "project(vllm)\n",
}


def test_the_layout_of_old_releases_is_read() -> None:
    def read(path: str) -> str:
        if path not in OLD:
            raise ConfigError(f"no {path}")
        return OLD[path]

    assert pins.commit(read) == "9ba0817ff1eb514f51cc6de9cb8e16c98d6ee44f"
    assert pins.torch_version(read) == "2.4.0"
    assert pins.python_range(read) == ">=3.8"
    assert pins.cuda_version(read) == "12.1"


def test_an_old_release_for_one_machine_is_pinned_for_that_one(world: World) -> None:
    files = {name: content.encode() for name, content in OLD.items()}
    name = "vllm-0.6.1.post2"
    world.index.add("vllm", f"{name}.tar.gz", small.make_sdist(files, "0.6.1.post2"))
    world.index.add("vllm", f"{name}-cp38-abi3-manylinux1_x86_64.whl", small.make_wheel())
    done = world.good("bases", "add", "v0.6.1.post2")
    base = load_bases(world.root / "bases.toml").find("v0.6.1.post2")
    assert set(base.wheels) == {"x86_64"}
    assert base.deepgemm is None and base.inner == ()
    assert "no DeepGEMM is in this release's wheel" in done.out
