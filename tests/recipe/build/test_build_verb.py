# SPDX-License-Identifier: Apache-2.0
"""`build` from pins to a wheel, on a small release: record, bytes, what a failure leaves."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from recipe.ground import scratch
from tests.recipe import small
from tests.recipe.repo import numbered
from tests.recipe.world import MACHINE, World

PATCHED = numbered(40).replace(b"line 20\n", b"ours\n")


@pytest.fixture
def patched(world: World) -> World:
    """A Python patch, a patch of a CUDA source, and one overlay file."""
    python = world.upstream.patch({"vllm/model.py": PATCHED}, "Mend it", Topic="mended")
    world.add_patch("mended.patch", python)
    kernel = {"csrc/kernel.cu": b"ours\n", "tools/build.sh": b"#!/bin/sh\nexit 0\n"}
    native = world.upstream.patch(kernel, "Faster", Topic="faster", Components="_C")
    world.add_patch("faster.patch", native)
    world.add_overlay("vllm/sm12x/ours.py", b"ours = 1\n")
    return world


def record(wheel: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/sm12x/record.json")]
        read = json.loads(archive.read(name))
        assert isinstance(read, dict)
        return read


def test_the_wheel_has_the_patched_tree_and_says_how_it_was_made(patched: World) -> None:
    done = patched.build("--json")

    assert done.status == 0, done.err
    wheel = patched.wheel()
    assert done.document["wheel"] == wheel.name
    assert done.document["sha256"] == small.sha256(wheel.read_bytes())
    assert done.document["version"] == "9.1.0+sm12x.4"
    assert done.document["tests"]["skipped_why"] == "--no-test was given"
    assert patched.left_in_out() == []
    report = json.loads(wheel.with_name(wheel.name + ".build.json").read_text(encoding="utf-8"))
    assert {**report, "schema": 1} == done.document
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("vllm/model.py") == PATCHED
        assert archive.read("vllm/sm12x/ours.py") == b"ours = 1\n"
        assert "csrc/kernel.cu" not in archive.namelist()
        info = f"vllm-{done.document['version']}.dist-info/sm12x/patches"
        assert archive.read(f"{info}/series") == b"vllm/mended.patch\nvllm/faster.patch\n"
        for name in ("mended.patch", "faster.patch"):
            kept = (patched.root / "patches" / "vllm" / name).read_bytes()
            assert archive.read(f"{info}/vllm/{name}") == kept


def test_the_record_names_sources_files_and_what_only_a_compile_carries(patched: World) -> None:
    assert patched.build().status == 0

    found = record(patched.wheel())

    assert found["base"] == small.TAG
    assert found["upstream_commit"] == small.COMMIT
    assert found["source"] == f"{small.SDIST} sha256:{small.sha256(patched.sdist)}"
    assert found["published_wheel"]["sha256"] == small.sha256(patched.wheels[MACHINE])
    by_path = {row["path"]: row for row in found["files"]}
    assert by_path["vllm/model.py"] == {
        "path": "vllm/model.py",
        "origin": "patched",
        "sha256": small.sha256(PATCHED),
        "upstream_sha256": small.sha256(small.PACKAGE["vllm/model.py"]),
    }
    assert by_path["vllm/sm12x/ours.py"]["origin"] == "overlay"
    (component,) = found["components"]
    assert (component["name"], component["action"]) == ("_C", "stale")
    assert component["files"] == ["vllm/_C.abi3.so"]
    (compiled, scripts) = found["not_in_this_wheel"]
    assert "_C: faster changes its compile" in compiled
    assert "tools/build.sh" in scripts


def test_the_same_bytes_twice_from_other_folders_and_caches(patched: World, tmp_path: Path) -> None:
    assert patched.build().status == 0
    first = patched.wheel().read_bytes()
    other = tmp_path / "elsewhere"
    env = {"SM12X_CACHE": str(tmp_path / "other-cache"), "TZ": "Asia/Kolkata", "LANG": "C"}
    done = patched.run("build", "--no-test", "--out", str(other), env=env)
    assert done.status == 0, done.err
    assert next(other.glob("*.whl")).read_bytes() == first


def test_a_patch_on_a_removed_file_takes_it_out_of_the_wheel(world: World) -> None:
    world.add_patch("gone.patch", world.upstream.patch({"vllm/envs.py": None}))
    assert world.build().status == 0
    with zipfile.ZipFile(world.wheel()) as archive:
        assert "vllm/envs.py" not in archive.namelist()
    assert record(world.wheel())["removed"] == ["vllm/envs.py"]


def republish(world: World, content: bytes) -> None:
    """Pin and serve another published wheel for this machine."""
    world.index.add("vllm", small.WHEELS[MACHINE], content)
    text = small.bases_toml(world.sdist, {**world.wheels, MACHINE: content})
    (world.root / "bases.toml").write_text(text, encoding="utf-8")


def test_a_wheel_of_other_sources_is_refused_and_nothing_is_left(patched: World) -> None:
    republish(patched, small.make_wheel({"vllm/model.py": b"other\n"}))

    done = patched.build()

    assert done.status == 3
    assert "vllm/model.py in the published wheel differs from the source tree" in done.err
    assert done.next == "build from the pinned archive: --source sdist"
    assert patched.left_in_out() == []
    assert not list(patched.out.glob("*.whl"))
    republish(patched, patched.wheels[MACHINE])
    assert patched.build().status == 0


def test_a_wheel_that_takes_any_torch_is_refused(patched: World) -> None:
    metadata = small.METADATA.replace(b"torch==2.11.0", b"torch")
    republish(patched, small.make_wheel(metadata=metadata))

    done = patched.build()

    assert done.status == 6
    assert "doesn't fix torch" in done.err
    assert "recipe/wheel/metadata.py" in done.next
    assert patched.left_in_out() == []


@pytest.mark.skipif(MACHINE != "x86_64", reason="asks for x86_64 tags")
def test_a_platform_older_than_the_shared_objects_need_is_refused(patched: World) -> None:
    done = patched.build("--platform", "manylinux_2_1_x86_64")

    assert done.status == 6, done.err
    assert "the shared objects need" in done.err
    words = done.next.split()
    assert words[:3] == ["python", "build.py", "--platform"]
    assert not list(patched.root.glob("dist/*.whl"))
    assert patched.build("--platform", words[3]).status == 0


@pytest.mark.skipif(MACHINE != "x86_64", reason="asks for x86_64 tags")
def test_a_newer_platform_than_needed_is_written_as_asked(patched: World) -> None:
    assert patched.build("--platform", "manylinux_2_39_x86_64").status == 0
    assert patched.wheel().name.endswith("-manylinux_2_39_x86_64.whl")


def test_leftovers_of_a_killed_build_go_and_those_of_others_stay(patched: World) -> None:
    ours = patched.out / scratch.half_written(patched.out / "vllm-sm12x")
    ours.mkdir(parents=True)
    (ours / "half.whl").write_bytes(b"half")
    theirs = [".lock", ".other.part", ".staging", ".vllm-sm12x.0123.half-written"]
    for name in theirs:
        (patched.out / name).write_bytes(b"somebody's")
    assert patched.build().status == 0
    assert patched.left_in_out() == theirs
    assert {(patched.out / name).read_bytes() for name in theirs} == {b"somebody's"}


@pytest.mark.parametrize("kept", ["", "{", '{"platform": "manylinux_2_99_x86_64"}', "changed"])
def test_a_kept_platform_tag_that_was_changed_is_computed_anew(patched: World, kept: str) -> None:
    assert patched.build().status == 0
    name = patched.wheel().name
    patched.wheel().unlink()
    (path,) = (patched.cache / "audit").glob("*.json")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("linux_2_", "linux_9_") if kept == "changed" else kept)
    done = patched.build()
    assert done.status == 0, done.err
    assert f"what the cache has in {path} was damaged or changed" in done.err
    assert patched.wheel().name == name
    assert path.read_text(encoding="utf-8") == text
