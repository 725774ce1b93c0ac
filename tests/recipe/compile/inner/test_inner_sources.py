# SPDX-License-Identifier: Apache-2.0
"""The folders CMake gets: what is pinned, whole, once, and a placeholder where nothing is built."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recipe.compile.inner.find import Kind
from recipe.compile.inner.folders import as_defines, as_env, as_record
from recipe.compile.inner.tree import working_copy
from recipe.ground.errors import SourceError
from recipe.objects.gate.folder import every_entry
from recipe.objects.ids import tree_id
from tests.recipe.inners import Inner, add_submodule, cutlass_files


def test_what_no_target_needs_is_a_placeholder_that_cmake_accepts(inner: Inner) -> None:
    found = inner.ask("spinloop")
    assert {one.kind for one in found.values()} == {Kind.PLACEHOLDER}
    kernels = found["kernels"].folder
    for path in ("interface.py", "csrc/api.cpp", "csrc/one.cu"):
        assert (kernels / path).read_bytes() == b""
    assert (kernels / "third-party" / "cutlass" / "include").is_dir()
    assert (found["cutlass"].folder / "include/cutlass/cutlass.h").is_file()
    assert "CUTLASS_INCLUDE_DIR" in (found["cutlass"].folder / "CMakeLists.txt").read_text()
    assert as_record(found.values()) == []


def test_only_what_a_target_is_built_from_is_fetched(inner: Inner) -> None:
    found = inner.ask("_moe_C", offline=False)
    assert found["cutlass"].kind == Kind.GIT
    assert found["kernels"].kind == Kind.PLACEHOLDER


def test_submodules_are_where_the_checkout_has_them(inner: Inner) -> None:
    kernels = inner.ask("_kernels_C", offline=False)["kernels"]
    assert (kernels.folder / "csrc/api.cpp").read_bytes() == b"int a;\n"
    assert (kernels.folder / "third-party/fmt/include/fmt/format.h").is_file()
    assert (kernels.folder / "third-party/cutlass/include/cutlass/version.h").is_file()
    assert kernels.pinned
    assert kernels.origin.endswith(inner.kernels.text("rev-parse", "HEAD"))


def test_submodules_of_submodules_are_taken(inner: Inner, tmp_path: Path) -> None:
    add_submodule(inner.fmt, "deep/er", str(inner.cutlass.root), inner.cutlass)
    inner.kernels.git(
        "update-index",
        "--cacheinfo",
        f"160000,{inner.fmt.text('rev-parse', 'HEAD')},third-party/fmt",
    )
    inner.kernels.git("commit", "--quiet", "-m", "deeper")
    pinned = inner.pinned("kernels", pin=inner.kernels.text("rev-parse", "HEAD"))
    folder = pinned.ask("_kernels_C", offline=False)["kernels"].folder
    assert (folder / "third-party/fmt/deep/er/include/cutlass/cutlass.h").is_file()


def test_a_submodule_upstream_does_not_name_is_left_out(inner: Inner) -> None:
    add_submodule(inner.kernels, "third-party/huge", "https://nowhere.example/huge", inner.fmt)
    pinned = inner.pinned("kernels", pin=inner.kernels.text("rev-parse", "HEAD"))
    folder = pinned.ask("_kernels_C", offline=False)["kernels"].folder
    assert not (folder / "third-party/huge").exists()


def test_identity_is_the_tree_id_that_git_gives(inner: Inner) -> None:
    inner.cutlass.write({"run": b"#!/bin/sh\n", "a-b": b"", "a/b": b"", "a.b": b""})
    (inner.cutlass.root / "run").chmod(0o755)
    (inner.cutlass.root / "link").symlink_to("run")
    (inner.cutlass.root / "folder-link").symlink_to("include")
    inner.cutlass.commit({})
    inner.cutlass.git("tag", "v4.9.1")
    cutlass = inner.pinned("cutlass", pin="v4.9.1").ask("_moe_C", offline=False)["cutlass"]
    assert cutlass.identity == inner.cutlass.text("rev-parse", "HEAD^{tree}")
    assert cutlass.folder.name == cutlass.identity
    assert tree_id(every_entry(cutlass.folder)) == cutlass.identity


def test_what_was_fetched_once_needs_no_repository(inner: Inner) -> None:
    first = inner.ask("_moe_C", "_kernels_C", offline=False)
    shutil.rmtree(inner.cutlass.root)
    shutil.rmtree(inner.kernels.root)
    assert inner.ask("_moe_C", "_kernels_C", offline=False) == first
    shutil.rmtree(inner.project.cache / "inner")
    assert inner.ask("_moe_C", "_kernels_C", offline=True) == first


def test_a_folder_that_a_build_wrote_into_is_written_anew(inner: Inner) -> None:
    folder = inner.ask("_moe_C", offline=False)["cutlass"].folder
    (folder / "built.o").write_bytes(b"object")
    (folder / "include/cutlass/cutlass.h").write_bytes(b"// changed\n")
    again = inner.ask("_moe_C")["cutlass"].folder
    assert again == folder
    assert not (folder / "built.o").exists()
    assert (folder / "include/cutlass/cutlass.h").read_bytes() == b"// cutlass\n"


def test_a_working_copy_leaves_the_source_as_it_is(inner: Inner, tmp_path: Path) -> None:
    source = inner.ask("_moe_C", offline=False)["cutlass"]
    copy = working_copy(source.folder, tmp_path / "work")
    (copy / "built.o").write_bytes(b"")
    assert working_copy(source.folder, copy) == copy
    assert tree_id(every_entry(copy)) == source.identity


def test_a_moved_tag_is_refused(inner: Inner) -> None:
    inner.ask("_moe_C", offline=False)
    old = inner.cutlass.text("rev-parse", "v4.9.0^{commit}")
    inner.cutlass.commit({"include/cutlass/cutlass.h": b"// swapped\n"})
    inner.cutlass.git("tag", "--force", "v4.9.0")
    mirror = inner.project.cache.parent / "mirrors"
    mirror.mkdir()
    (mirror / "cutlass.git").symlink_to(inner.cutlass.root / ".git")
    with pytest.raises(SourceError, match=f"v4.9.0 .* is at .* it was at {old}"):
        inner.ask("_moe_C", sources=(str(mirror),))


def test_a_tag_that_is_not_at_the_pinned_commit_is_refused(inner: Inner) -> None:
    pinned = inner.pinned("cutlass", commit="12" * 20)
    with pytest.raises(SourceError, match=r"tag v4\.9\.0 .*it was at 1212") as refused:
        pinned.ask("_moe_C", offline=False)
    assert "_moe_C" in str(refused.value)


def test_a_commit_nobody_has_names_source_component_and_option(inner: Inner) -> None:
    pinned = inner.pinned("kernels", pin="ab" * 20)
    with pytest.raises(SourceError) as refused:
        pinned.ask("_kernels_C", offline=False)
    assert refused.value.exit_code == 3
    assert "kernels" in refused.value.what and "_kernels_C" in refused.value.what
    assert refused.value.next.startswith("--sources kernels=PATH")


def test_offline_without_anything_says_so(inner: Inner) -> None:
    inner = inner.pinned("kernels", repository="https://nowhere.example/kernels.git")
    with pytest.raises(SourceError, match="--offline was given"):
        inner.ask("_kernels_C", offline=True)


def test_a_repository_that_lost_an_object_is_refused(inner: Inner) -> None:
    blob = inner.kernels.text("rev-parse", "HEAD:csrc/api.cpp")
    (inner.kernels.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(SourceError, match="kernels"):
        inner.ask("_kernels_C", offline=False)
    assert not (inner.project.cache / "inner" / "kernels").exists()


def test_a_source_without_a_file_that_cmake_names_is_refused(inner: Inner) -> None:
    inner.kernels.git("rm", "--quiet", "--cached", "csrc/one.cu")
    inner.kernels.git("commit", "--quiet", "-m", "less")
    pinned = inner.pinned("kernels", pin=inner.kernels.text("rev-parse", "HEAD"))
    with pytest.raises(SourceError, match=r"lacks csrc/one\.cu"):
        pinned.ask("_kernels_C", offline=False)


def test_flash_attention_goes_by_cmakes_own_override(inner: Inner) -> None:
    found = inner.ask("_moe_C", offline=False)
    assert as_env(found.values()) == {
        "KERNELS_SRC_DIR": str(found["kernels"].folder),
        "VLLM_CUTLASS_SRC_DIR": str(found["cutlass"].folder),
    }
    assert as_defines(found.values()) == {}


def test_a_submodule_address_that_git_would_take_for_an_option_is_refused(inner: Inner) -> None:
    add_submodule(inner.kernels, "third-party/bad", "--upload-pack=touch x", inner.fmt)
    pinned = inner.pinned("kernels", pin=inner.kernels.text("rev-parse", "HEAD"))
    with pytest.raises(SourceError, match="is not one"):
        pinned.ask("_kernels_C", offline=False)


def test_the_record_has_no_path_of_this_machine(inner: Inner) -> None:
    inner.cutlass.root.joinpath("plain").mkdir()
    for name, content in cutlass_files("4.9.0").items():
        path = inner.cutlass.root / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    given = f"cutlass={inner.cutlass.root / 'plain'}"
    (record,) = as_record(inner.ask("_moe_C", sources=(given,)).values())
    assert record["pinned"] is False
    assert str(inner.cutlass.root.parent) not in str(record)
