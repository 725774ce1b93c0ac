# SPDX-License-Identifier: Apache-2.0
"""--sources: what a person names is taken as it stands and marked so, or refused with a reason."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from recipe.compile.inner.find import Kind
from recipe.ground.errors import SourceError, UsageError
from tests.recipe.inners import Inner, cutlass_files


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_plain_folder_is_taken_as_it_stands_and_marked(inner: Inner, tmp_path: Path) -> None:
    folder = put(tmp_path / "mine", cutlass_files("4.9.0") | {"extra.h": b"// mine\n"})
    cutlass = inner.ask("_moe_C", sources=(f"cutlass={folder}",))["cutlass"]
    assert (cutlass.kind, cutlass.pinned) == (Kind.GIVEN, False)
    assert (cutlass.folder / "extra.h").is_file()
    put(folder, {"extra.h": b"// other\n"})
    changed = inner.ask("_moe_C", sources=(f"cutlass={folder}",))["cutlass"]
    assert changed.identity != cutlass.identity
    assert (cutlass.folder / "extra.h").read_bytes() == b"// mine\n"


def test_a_folder_of_sources_serves_each_by_its_name(inner: Inner, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    put(sources / "cutlass", cutlass_files("4.9.0"))
    inner.kernels.git("clone", "--quiet", "--bare", ".", str(sources / "kernels.git"))
    inner.fmt.git("clone", "--quiet", "--bare", ".", str(sources / "fmt.git"))
    inner.cutlass.git("clone", "--quiet", "--bare", ".", str(sources / "CUTLASS.git"))
    shutil.rmtree(tmp_path / "up")
    found = inner.ask("_moe_C", "_kernels_C", sources=(str(sources),))
    assert not found["cutlass"].pinned
    assert found["kernels"].pinned
    assert (found["kernels"].folder / "third-party/fmt/include/fmt/format.h").is_file()


def test_a_repository_gives_the_pin_whatever_it_has_checked_out(
    inner: Inner, tmp_path: Path
) -> None:
    pin = inner.ask("_moe_C", offline=False)["cutlass"].identity
    shutil.rmtree(inner.project.cache / "inner")
    inner.cutlass.commit({"include/cutlass/cutlass.h": b"// newer\n"})
    sources = tmp_path / "sources"
    sources.mkdir()
    inner.cutlass.git("clone", "--quiet", ".", str(sources / "cutlass"))
    assert inner.ask("_moe_C", sources=(str(sources),))["cutlass"].identity == pin


def test_a_work_tree_named_by_hand_is_taken_as_it_stands(inner: Inner) -> None:
    (inner.kernels.root / "csrc/one.cu").write_bytes(b"int mine;\n")
    for name, child in (("cutlass", inner.cutlass), ("fmt", inner.fmt)):
        target = inner.kernels.root / "third-party" / name
        shutil.rmtree(target, ignore_errors=True)
        child.git("clone", "--quiet", ".", str(target))
    kernels = inner.ask("_kernels_C", sources=(f"kernels={inner.kernels.root}",))["kernels"]
    assert not kernels.pinned
    assert (kernels.folder / "csrc/one.cu").read_bytes() == b"int mine;\n"
    assert (kernels.folder / "third-party/fmt/include/fmt/format.h").is_file()
    assert not list(kernels.folder.rglob(".git"))


def test_an_archive_serves_without_its_top_folder(inner: Inner, tmp_path: Path) -> None:
    put(tmp_path / "cutlass-4.9.0", cutlass_files("4.9.0"))
    archive = tmp_path / "cutlass.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "cutlass-4.9.0", "cutlass-4.9.0")
    cutlass = inner.ask("_moe_C", sources=(f"cutlass={archive}",))["cutlass"]
    assert (cutlass.folder / "include/cutlass/cutlass.h").is_file()
    assert not cutlass.pinned


def test_an_archive_without_its_submodules_is_refused(inner: Inner, tmp_path: Path) -> None:
    archive = tmp_path / "kernels.tar"
    inner.kernels.git("archive", "--prefix=k/", "-o", str(archive), "HEAD")
    with pytest.raises(
        SourceError, match=r"lacks third-party/cutlass, third-party/cutlass/include"
    ) as refused:
        inner.ask("_kernels_C", sources=(f"kernels={archive}",))
    assert "submodules" in refused.value.means


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b truncated"])
def test_what_is_no_archive_is_refused(inner: Inner, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cutlass.tar.gz"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"cutlass"):
        inner.ask("_moe_C", sources=(f"cutlass={path}",))


def test_headers_of_another_version_are_refused(inner: Inner, tmp_path: Path) -> None:
    folder = put(tmp_path / "old", cutlass_files("4.8.0"))
    with pytest.raises(SourceError, match=r"has CUTLASS 4\.8\.0; v4\.9\.0 is pinned"):
        inner.ask("_moe_C", sources=(f"cutlass={folder}",))


def test_a_repository_without_the_pinned_commit_is_refused(inner: Inner, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    inner.fmt.git("clone", "--quiet", "--bare", ".", str(sources / "kernels.git"))
    away = inner.pinned("kernels", repository="https://nowhere.example/kernels.git")
    with pytest.raises(SourceError, match=r"could not be had"):
        away.ask("_kernels_C", sources=(str(sources),))


def test_names_and_paths_that_mean_nothing_are_usage_errors(inner: Inner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "two" / "cutlass", cutlass_files("4.9.0"))
    (tmp_path / "two" / "cutlass.tar").write_bytes(b"")
    for option, said in (
        (f"kernel={tmp_path}", "no inner source is called 'kernel'"),
        ("cutlass=/nowhere/at/all", "doesn't exist"),
        (str(tmp_path / "empty"), "has no inner source"),
        (str(tmp_path / "none"), "neither a folder nor NAME=PATH"),
        (str(tmp_path / "two"), "remove one"),
    ):
        with pytest.raises(UsageError) as refused:
            inner.ask("_moe_C", sources=(option,))
        assert said in str(refused.value)
        assert refused.value.exit_code == 2


def test_a_link_out_of_a_folder_is_refused(inner: Inner, tmp_path: Path) -> None:
    folder = put(tmp_path / "bad", cutlass_files("4.9.0"))
    (folder / "secret").symlink_to("/etc/passwd")
    with pytest.raises(SourceError, match="link out of the tree"):
        inner.ask("_moe_C", sources=(f"cutlass={folder}",))


@pytest.mark.parametrize("path", ["../../..", ".", "/etc", "a/../../b", "third-party/.git", "a\nb"])
def test_a_submodule_path_that_leaves_the_work_tree_is_refused(
    inner: Inner, tmp_path: Path, path: str
) -> None:
    folder = put(tmp_path / "mine", cutlass_files("4.9.0"))
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    quoted = path.replace("\n", "\\n")
    modules = f'[submodule "x"]\n\tpath = "{quoted}"\n\turl = ../x\n'
    (folder / ".gitmodules").write_text(modules, encoding="utf-8")
    with pytest.raises(SourceError, match="the submodule path ") as caught:
        inner.ask("_moe_C", sources=(f"cutlass={folder}",))
    assert caught.value.what.isprintable()
    assert caught.value.next


def test_only_what_git_has_as_a_submodule_is_one(
    inner: Inner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a section of .gitmodules nor a link makes one, and what is left out is said."""
    outside = put(tmp_path / "outside", {"secret": b"the builder's\n"})
    folder = put(tmp_path / "mine", cutlass_files("4.9.0"))
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    modules = '[submodule "x"]\n\tpath = docs\n\turl = ../x\n'
    put(folder, {".gitmodules": modules.encode(), "docs/a": b"a\n", "docs/.gitignore": b""})
    row = f"160000,{'12' * 20},empty"
    (folder / "empty").mkdir()
    subprocess.run([*git, "update-index", "--add", "--cacheinfo", row], check=True)
    cutlass = inner.ask("_moe_C", sources=(f"cutlass={folder}",))["cutlass"]
    assert (cutlass.folder / "docs" / "a").is_file()
    assert "left out: 'empty', a submodule that isn't checked out" in capsys.readouterr().err
    (folder / "empty").rmdir()
    (folder / "empty").symlink_to(outside)
    with pytest.raises(SourceError, match="'empty' is a link out of the tree"):
        inner.ask("_moe_C", sources=(f"cutlass={folder}",))


def test_names_of_a_work_tree_and_its_submodule_are_one_tree(inner: Inner) -> None:
    """What each may have alone can be too much for both."""
    target = inner.kernels.root / "third-party" / "fmt"
    shutil.rmtree(target, ignore_errors=True)
    inner.fmt.git("clone", "--quiet", ".", str(target))
    inner.kernels.write({"Third-Party/fmt2": b"x\n"})
    with pytest.raises(SourceError, match="on a disk that folds letters"):
        inner.ask("_kernels_C", sources=(f"kernels={inner.kernels.root}",))
