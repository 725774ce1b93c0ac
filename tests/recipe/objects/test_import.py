# SPDX-License-Identifier: Apache-2.0
"""An archive or a folder becomes a commit: the same each time, and nothing unsafe gets in."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.ground.errors import SourceError
from recipe.objects.archive import import_entries
from recipe.objects.gate.folder import folder_entries
from recipe.objects.gate.tar import tar_entries
from recipe.objects.git import Store, open_store
from tests.recipe import small
from tests.recipe.repo import Repository, new_repository
from tests.recipe.world import World

Fill = Callable[[tarfile.TarFile], None]
REF = "refs/sm12x/test"


def file(name: str, content: bytes = b"x\n", mode: int = 0o644) -> Fill:
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), mode
        tar.addfile(member, io.BytesIO(content))

    return add


def special(name: str, kind: bytes, target: str = "") -> Fill:
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)

    return add


def archive(folder: Path, *members: Fill) -> Path:
    path = folder / "vllm-1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        file("vllm-1/first.py")(tar)
        for add in members:
            add(tar)
    return path


def load(store: Store, path: Path) -> str:
    return import_entries(store, tar_entries(path), REF, "vllm 1\n")


GOOD = [
    file("vllm-1/run.sh", b"#!/bin/sh\n", 0o755),
    file("vllm-1/group.sh", b"#!/bin/sh\n", 0o670),
    file('vllm-1/odd "name" \u00e9 $.py'),
    file("vllm-1/deep/er/empty", b""),
    file("vllm-1/.gitignore", b"ignored\n"),
    file("vllm-1/ignored", b"kept all the same\n"),
    file("vllm-1/.gitattributes", b"* text eol=crlf\n"),
    file("vllm-1/crlf.txt", b"a\r\nb\n"),
    special("vllm-1/link", tarfile.SYMTYPE, "deep/er/empty"),
    special("vllm-1/deep/up", tarfile.SYMTYPE, "../first.py"),
    special("vllm-1/folder", tarfile.DIRTYPE),
]


def test_the_same_archive_gives_the_same_commit_in_every_store(tmp_path: Path) -> None:
    path = archive(tmp_path, *GOOD)
    stores = [open_store(tmp_path / name) for name in ("one.git", "two.git")]
    assert load(stores[0], path) == load(stores[1], path) == load(stores[0], path)
    assert stores[0].commit_of(REF) == stores[1].commit_of(REF)


def test_the_tree_is_what_tar_and_git_add_make_of_it(tmp_path: Path, store: Store) -> None:
    path = archive(tmp_path, *GOOD)
    commit = load(store, path)
    oracle = new_repository(tmp_path / "oracle", {})
    subprocess.run(
        ["tar", "-xpf", str(path), "--strip-components=1", "-C", str(oracle.root)], check=True
    )
    attributes = ("-c", "core.attributesFile=/dev/null", "-c", "core.autocrlf=false")
    (oracle.root / ".git" / "info").mkdir(exist_ok=True)
    (oracle.root / ".git" / "info" / "attributes").write_text("* -text\n", encoding="utf-8")
    oracle.git(*attributes, "add", "--all", "--force")
    assert store.tree_of(commit) == oracle.text("write-tree")
    store.git("fsck", "--strict")


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (file("/etc/evil"), "absolute"),
        (file("vllm-1/../../evil"), "leaves the tree"),
        (file("vllm-1/.git/hooks/pre-commit"), "leaves the tree"),
        (file("vllm-1/sub/.git"), "leaves the tree"),
        (file("vllm-1/new\nline"), "git can't hold"),
        (file("vllm-1/back\\slash"), "git can't hold"),
        (file("vllm-1/tab\t"), "control character"),
        (file("vllm-1/latin-\udcfc.py"), "isn't UTF-8"),
        (special("vllm-1/latin", tarfile.SYMTYPE, "\udcfc.py"), "isn't UTF-8"),
        (special("vllm-1/out", tarfile.SYMTYPE, "../../etc/passwd"), "link out of the tree"),
        (special("vllm-1/abs", tarfile.SYMTYPE, "/etc/passwd"), "link out of the tree"),
        (special("vllm-1/hard", tarfile.LNKTYPE, "vllm-1/first.py"), "hard link"),
        (special("vllm-1/null", tarfile.CHRTYPE), "device"),
        (special("vllm-1/pipe", tarfile.FIFOTYPE), "pipe"),
    ],
)
def test_an_unsafe_member_refuses_the_whole_archive(
    tmp_path: Path, store: Store, member: Fill, said: str
) -> None:
    good = load(store, archive(tmp_path, *GOOD))

    with pytest.raises(SourceError) as caught:
        load(store, archive(tmp_path, *GOOD, member, file("vllm-1/last.py")))

    assert said in caught.value.what
    assert caught.value.next
    assert store.commit_of(REF) == good
    assert not list(store.path.glob("fast_import_crash_*"))
    assert load(store, archive(tmp_path, *GOOD)) == good


def test_a_file_below_a_link_is_never_followed(tmp_path: Path, store: Store) -> None:
    """Neither git nor a disk can hold both."""
    link = special("vllm-1/data", tarfile.SYMTYPE, "deep")
    with pytest.raises(SourceError, match=r"'data/evil.py' is below 'data', which is no folder"):
        load(store, archive(tmp_path, *GOOD, link, file("vllm-1/data/evil.py")))


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused(tmp_path: Path, store: Store, keep: float) -> None:
    path = archive(tmp_path, *GOOD, file("vllm-1/big", os.urandom(100_000)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])

    with pytest.raises(SourceError) as caught:
        load(store, path)

    assert "can't be read" in caught.value.what
    assert caught.value.next == f"remove {path} and run again"
    assert store.commit_of(REF) is None
    path.write_bytes(content)
    load(store, path)


def test_what_is_no_archive_is_refused(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match="can't be read"):
        load(store, path)


def test_an_unsafe_sdist_ends_the_command_with_3(world: World, tmp_path: Path) -> None:
    bad = archive(tmp_path, special("vllm-1/out", tarfile.SYMTYPE, "/etc")).read_bytes()
    world.index.add("vllm", small.SDIST, bad)
    pins = small.bases_toml(bad, world.wheels)
    (world.root / "bases.toml").write_text(pins, encoding="utf-8")

    done = world.run("plan")

    assert done.status == 3
    assert "is a link out of the tree" in done.err
    assert done.next
    assert world.refs() == ""


def test_an_sdist_of_another_commit_is_refused(world: World) -> None:
    text = small.bases_toml(world.sdist, world.wheels, commit="fedcba987")
    (world.root / "bases.toml").write_text(text, encoding="utf-8")
    done = world.run("plan")
    assert done.status == 3
    assert f"made from commit {small.COMMIT}; bases.toml pins fedcba987" in done.err
    assert done.next == "python build.py bases add v9.1.0"


def test_a_plain_folder_has_the_tree_of_its_archive(world: World, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    sdist = tmp_path / "sdist.tar.gz"
    sdist.write_bytes(world.sdist)
    subprocess.run(
        ["tar", "-xpf", str(sdist), "--strip-components=1", "-C", str(plain)], check=True
    )
    trees = []
    for number, source in enumerate(("sdist", str(plain))):
        tree = tmp_path / f"tree{number}"
        world.good("apply", "--tree", str(tree), "--source", source)
        trees.append(Repository(root=tree).text("rev-parse", "HEAD^{tree}"))
    assert trees[0] == trees[1]


def test_a_checkout_gives_what_git_would_track_and_nothing_ignored(
    store: Store, upstream: Repository
) -> None:
    upstream.commit({".gitignore": b"*.o\n", "vllm/gone.py": b"gone\n"})
    extra = {"new.py": b"untracked\n", "x.o": b"ignored\n", "vllm/gone.py": None}
    upstream.write(extra)
    (upstream.root / "vllm" / "link").symlink_to("model.py")

    commit = import_entries(store, folder_entries(upstream.root), REF, "folder\n")

    upstream.git("add", "--all")
    assert store.tree_of(commit) == upstream.text("write-tree")


def test_a_link_out_of_a_folder_is_refused(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out").symlink_to("/etc/passwd")
    with pytest.raises(SourceError, match="link out of the tree"):
        import_entries(store, folder_entries(folder), REF, "folder\n")
    assert store.commit_of(REF) is None


@pytest.mark.parametrize("tracked", [True, False])
def test_a_name_that_is_not_utf8_is_refused(world: World, tracked: bool, tmp_path: Path) -> None:
    folder = world.upstream.root if tracked else tmp_path / "plain"
    if not tracked:
        shutil.copytree(world.upstream.root, folder, ignore=shutil.ignore_patterns(".git"))
    (folder / os.fsdecode(b"caf\xe9.py")).touch()

    done = world.run("plan", "--source", str(folder))

    assert done.status == 3
    assert r"'caf\xe9.py' isn't UTF-8" in done.err
    assert "--source sdist" in done.next


def test_a_source_that_is_not_there_is_a_usage_error(world: World, tmp_path: Path) -> None:
    done = world.run("plan", "--source", str(tmp_path / "nowhere"))
    assert done.status == 2
    assert done.next
    (tmp_path / "empty").mkdir()
    done = world.run("plan", "--source", str(tmp_path / "empty"))
    assert done.status == 3
    assert "is empty" in done.err


def test_a_git_address_is_fetched_and_its_commit_compared(world: World, tmp_path: Path) -> None:
    world.upstream.git("tag", "v9.1.0")
    url = f"file://{world.upstream.root}"
    done = world.run("plan", "--source", url)
    assert done.status == 3
    assert "bases.toml pins 0123abcde" in done.err
    assert done.next
    head = world.upstream.text("rev-parse", "HEAD")
    text = small.bases_toml(world.sdist, world.wheels, commit=head)
    (world.root / "bases.toml").write_text(text, encoding="utf-8")
    found = world.good("plan", "--source", url, "--json").document
    assert found["source"]["kind"] == "git"
    assert head in found["source"]["origin"]
    world.good("plan", "--source", url, "--offline")
    missing = world.run("plan", "--source", f"file://{tmp_path}/none")
    assert missing.status == 3
    assert missing.next
