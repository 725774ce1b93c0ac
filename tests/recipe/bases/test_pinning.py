# SPDX-License-Identifier: Apache-2.0
"""`bases add` and `bases check` on an index that has a newer release."""

from __future__ import annotations

import json

import pytest

from recipe.bases.releases import load_bases
from recipe.objects.git import Store
from tests.recipe import small
from tests.recipe.world import World

NEW = "9.2.0"
COMMIT = "fedcba987"
DEEPGEMM = "cd" * 20
CMAKE = (
    small.CMAKE
    + b"""
set(CUTLASS_REVISION "v9")
FetchContent_Declare(
    cutlass
    GIT_REPOSITORY https://cutlass.example/x.git  # a comment
    GIT_TAG ${CUTLASS_REVISION}
)
"""
)
DEEPGEMM_CMAKE = f"""
set(TAG "{"00" * 20}")
if(rocm)
  set(TAG "{"11" * 20}")
else()
  set(TAG "{DEEPGEMM}")
endif()
FetchContent_Populate(deepgemm GIT_REPOSITORY "https://deepgemm.example/x.git" GIT_TAG "${{TAG}}")
""".encode()
TREE = {
    **small.TREE,
    "CMakeLists.txt": CMAKE,
    "cmake/external_projects/deepgemm.cmake": DEEPGEMM_CMAKE,
    "vllm/_version.py": small.VERSION_FILE.replace(small.COMMIT.encode(), COMMIT.encode()),
    "requirements/cuda.txt": b"-r common.txt\ntorch==2.12.0  # fixed\ntorchvision==1\n",
    "pyproject.toml": b'[project]\nrequires-python = ">=3.11,<3.15"\n',
    "docker/versions.json": b'{"variable": {"CUDA_VERSION": {"default": "13.1.2"}}}',
}


@pytest.fixture
def newer(world: World) -> World:
    """The index gains a release with wheels of two builds, a pre-release and an old one."""
    world.index.add("vllm", f"vllm-{NEW}.tar.gz", small.make_sdist(TREE, NEW))
    wheel = small.make_wheel({"vllm/third_party/deep_gemm/_C.cpython-312.so": b"so"})
    for machine in small.WHEELS:
        world.index.add("vllm", f"vllm-{NEW}-cp38-abi3-manylinux_2_28_{machine}.whl", b"old build")
        world.index.add("vllm", f"vllm-{NEW}-2-cp38-abi3-manylinux_2_28_{machine}.whl", wheel)
    world.index.add("vllm", "vllm-9.3.0rc1.tar.gz", b"not yet")
    world.index.add("vllm", "vllm-8.0.0.tar.gz", b"long ago")
    return world


def test_a_newer_release_is_found_and_the_command_to_pin_it_said(newer: World) -> None:
    done = newer.good("bases", "check", "--json")
    assert json.loads(done.out)["newer"] == [f"v{NEW}"]
    assert f"python build.py bases add v{NEW}" in done.err


def test_every_pin_of_a_release_is_read_and_the_others_stay(newer: World) -> None:
    newer.good("bases", "add", f"v{NEW}")

    old, new = load_bases(newer.root / "bases.toml").releases
    assert (old.tag, new.tag) == (small.TAG, f"v{NEW}")
    assert (new.commit, new.torch, new.cuda) == (COMMIT, "2.12.0", "13.1")
    assert "3.10.9" not in new.python and "3.14.1" in new.python
    assert new.components == ("_C", "_deep_gemm_C")
    assert {pin.name: pin.pin for pin in new.inner} == {"cutlass": "v9", "deepgemm": DEEPGEMM}
    files = newer.index.files["vllm"]
    assert new.sdist.sha256 == small.sha256(files[f"vllm-{NEW}.tar.gz"])
    assert new.sdist.size == len(files[f"vllm-{NEW}.tar.gz"])
    listed = Store(path=newer.cache / "store.git").text("for-each-ref", "--format=%(tree)")
    assert new.sdist.tree in listed.split()
    for machine, archive in new.wheels.items():
        assert archive.size == len(files[archive.name])
        assert archive.name == f"vllm-{NEW}-2-cp38-abi3-manylinux_2_28_{machine}.whl"
        assert archive.sha256 == small.sha256(files[archive.name])


def test_a_wheel_is_read_in_ranges_and_never_whole(newer: World) -> None:
    newer.good("bases", "add", f"v{NEW}")
    name = f"vllm-{NEW}-2-cp38-abi3-manylinux_2_28_x86_64.whl"
    asked = newer.index.fetched(name)
    assert asked
    assert all(wanted is not None and wanted.startswith("bytes=") for wanted in asked)


def test_what_moved_is_shown_with_the_patches_that_touch_it(newer: World) -> None:
    change = {"cmake/external_projects/deepgemm.cmake": b"ours\n"}
    newer.add_patch("pin.patch", newer.upstream.patch(change, Components="none"))

    moved = json.loads(newer.good("bases", "add", f"v{NEW}", "--json").out)["moved"]

    by_pin = {move["pin"]: move for move in moved}
    assert set(by_pin) == {
        *("components", "cuda", "python", "torch"),
        *("inner.cutlass", "inner.deepgemm"),
    }
    assert (by_pin["torch"]["old"], by_pin["torch"]["new"]) == ("2.11.0", "2.12.0")
    assert by_pin["inner.cutlass"]["old"] == "none"
    assert by_pin["inner.deepgemm"]["patches"] == ["vllm/pin.patch"]
    assert by_pin["inner.cutlass"]["patches"] == []


def test_pinning_again_changes_no_byte(newer: World) -> None:
    newer.good("bases", "add", f"v{NEW}")
    first = (newer.root / "bases.toml").read_bytes()
    newer.good("bases", "add", f"v{NEW}")
    assert (newer.root / "bases.toml").read_bytes() == first


def test_a_release_that_isnt_there_leaves_the_pins(newer: World) -> None:
    before = (newer.root / "bases.toml").read_bytes()
    done = newer.run("bases", "add", "v9.9.9")
    assert done.status == 3
    assert done.next
    assert (newer.root / "bases.toml").read_bytes() == before
    assert newer.run("bases", "add", "9.2").status == 2


def refused(world: World, status: int) -> str:
    """The errors of a pinning that must fail and leave the pins as they are."""
    before = (world.root / "bases.toml").read_bytes()
    done = world.run("bases", "add", f"v{NEW}")
    assert done.status == status, done.err
    assert done.next
    assert (world.root / "bases.toml").read_bytes() == before
    return done.err


def test_a_server_without_ranges_is_named(newer: World) -> None:
    newer.index.ranges = False
    assert "ranges" in refused(newer, 3)


def test_a_wheel_that_is_none_is_named(newer: World) -> None:
    name = f"vllm-{NEW}-2-cp38-abi3-manylinux_2_28_x86_64.whl"
    newer.index.sends[name] = b"not a wheel at all"
    assert name in refused(newer, 3)


def test_a_release_without_a_source_archive_is_refused(newer: World) -> None:
    del newer.index.files["vllm"][f"vllm-{NEW}.tar.gz"]
    assert "no source archive" in refused(newer, 3)


def test_a_release_laid_out_otherwise_names_the_missing_file(newer: World) -> None:
    tree = {name: content for name, content in TREE.items() if "versions.json" not in name}
    newer.index.add("vllm", f"vllm-{NEW}.tar.gz", small.make_sdist(tree, NEW))
    assert "docker/versions.json" in refused(newer, 2)


def test_what_is_known_of_a_pin_is_known_of_it_in_a_new_release(newer: World) -> None:
    """A tag's commit and tree are written by hand, and no release that names the tag loses them."""
    proof = f', commit = "{"cd" * 20}", tree = "{"ef" * 20}"'
    known = (
        f'inner.cutlass = {{ repository = "https://cutlass.example/x.git", pin = "v9"{proof} }}\n'
    )
    bases = newer.root / "bases.toml"
    with bases.open("a", encoding="utf-8") as file:
        file.write(known)
    for _ in range(2):
        newer.good("bases", "add", f"v{NEW}")
        for base in load_bases(bases).releases:
            (cutlass,) = (pin for pin in base.inner if pin.name == "cutlass")
            assert (cutlass.commit, cutlass.tree) == ("cd" * 20, "ef" * 20)


@pytest.mark.parametrize("length", ["", "x", "-5", "9" * 4400])
def test_a_server_that_says_no_size_is_named(newer: World, length: str) -> None:
    newer.index.length = length
    assert "a size that the file can have" in refused(newer, 3)


def test_a_wheel_with_an_odd_member_is_named(newer: World) -> None:
    name = f"vllm-{NEW}-2-cp38-abi3-manylinux_2_28_x86_64.whl"
    newer.index.sends[name] = small.make_wheel({"../evil.so": b"so"})
    assert "'../evil.so' leaves the tree" in refused(newer, 3)


def test_three_pins_at_once_are_three_pins(newer: World) -> None:
    """By runs of two caches, as of two people on one checkout."""
    wheel = small.make_wheel({"vllm/third_party/deep_gemm/_C.cpython-312.so": b"so"})
    versions = (NEW, "9.3.0", "9.4.0")
    for version in versions[1:]:
        newer.index.add("vllm", f"vllm-{version}.tar.gz", small.make_sdist(TREE, version))
        for machine in small.WHEELS:
            newer.index.add("vllm", f"vllm-{version}-cp38-abi3-manylinux_2_28_{machine}.whl", wheel)
    running = [
        newer.start("bases", "add", f"v{version}", env={"SM12X_CACHE": f"{newer.cache}-{cache}"})
        for cache, version in zip("aab", versions, strict=True)
    ]
    for process in running:
        _, err = process.communicate()
        assert process.returncode == 0, err
    found = newer.good("bases", "--json").document["bases"]
    assert [row["tag"] for row in found] == [small.TAG, *(f"v{version}" for version in versions)]
    assert not list(newer.root.glob(".bases*"))


def test_a_link_that_somebody_laid_beside_the_pins_is_not_followed(newer: World) -> None:
    mine = newer.root / "mine"
    mine.write_text("mine", encoding="utf-8")
    (newer.root / "bases.part").symlink_to(mine)
    newer.good("bases", "add", f"v{NEW}")
    assert mine.read_text(encoding="utf-8") == "mine"
    assert (newer.root / "bases.part").is_symlink()
    assert load_bases(newer.root / "bases.toml").releases[-1].tag == f"v{NEW}"
