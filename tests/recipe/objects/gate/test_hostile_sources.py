# SPDX-License-Identifier: Apache-2.0
"""Archives, folders and repositories made to do harm: each is refused whole."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.ground.errors import SourceError
from recipe.objects.archive import import_entries
from recipe.objects.gate import tar
from recipe.objects.gate.folder import folder_entries
from recipe.objects.gate.names import Entry
from recipe.objects.gate.trees import check_tree
from recipe.objects.git import Store
from tests.recipe.objects.test_import import GOOD, REF, Fill, archive, file, load, special
from tests.recipe.repo import Repository, fetched
from tests.recipe.world import World


def refused(store: Store, path: Path) -> str:
    """What is said of an archive that must be refused, with nothing kept."""
    with pytest.raises(SourceError) as caught:
        load(store, path)
    assert caught.value.next
    assert store.commit_of(REF) is None
    return caught.value.what


CHAIN = [
    special("vllm-1/d/up", tarfile.SYMTYPE, ".."),
    special("vllm-1/l", tarfile.SYMTYPE, "d/up/../x"),
]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([file("vllm-1/.GIT/config")], "'.GIT/config' leaves the tree"),
        ([file("vllm-1/a/git~1")], "'a/git~1' leaves the tree"),
        ([file("vllm-1/a"), file("vllm-1/a/b")], "'a/b' is below 'a'"),
        ([file("vllm-1/a/b"), file("vllm-1/a")], "'a' is a file"),
        ([file("vllm-1/a"), special("vllm-1/a", tarfile.DIRTYPE)], "is below 'a'"),
        ([file("vllm-1/first.py", b"other\n")], "'first.py' stands twice"),
        ([file("vllm-1/FIRST.py")], "'FIRST.py' is the same as 'first.py'"),
        ([file("vllm-1/m\u00fcll"), file("vllm-1/mu\u0308ll")], "on a disk"),
        ([special("vllm-1/l", tarfile.SYMTYPE, "a\0b")], "something follows the NUL"),
        (CHAIN, "'l' is a link out of the tree"),
        ([special("vllm-1/.git", tarfile.DIRTYPE)], "'.git' leaves the tree"),
        ([special("vllm-1/../x", tarfile.DIRTYPE)], "leaves the tree"),
        ([special("vllm-1/sparse", tarfile.GNUTYPE_SPARSE)], "holes|header"),
        ([file("README")], "isn't in the archive's one top folder"),
        ([file("other/first.py")], "isn't in 'vllm-1', the one top folder"),
    ],
)
def test_a_hostile_member_refuses_the_archive(
    tmp_path: Path, store: Store, members: list[Fill], said: str
) -> None:
    assert re.search(said, refused(store, archive(tmp_path, *GOOD, *members)))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def plain(folder: Path, *members: Fill) -> bytes:
    """The tar of an archive, not compressed."""
    return gzip.decompress(archive(folder, *members).read_bytes())


def test_every_flipped_byte_of_a_stored_member_is_found(tmp_path: Path, store: Store) -> None:
    whole = plain(tmp_path, file("vllm-1/big", os.urandom(3000)))
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=0, mtime=0) as packed:
        packed.write(whole)
    stored = out.getvalue()
    start = stored.index(whole[2048:2100])
    for place in (start, start + 700, len(stored) - 8, len(stored) - 1):
        damaged = bytearray(stored)
        damaged[place] ^= 1
        assert "can't be read" in refused(store, written(tmp_path / "x.tar.gz", bytes(damaged)))
    load(store, written(tmp_path / "x.tar.gz", stored))


def test_what_follows_the_end_is_not_dropped(tmp_path: Path, store: Store) -> None:
    one = plain(tmp_path)
    two = plain(tmp_path, file("vllm-1/second.py"))
    for content in (one + two, one + b"x", one[:-1024] + b"\0" * 512 + two):
        said = refused(store, written(tmp_path / "two.tar", content))
        assert "something follows its end mark" in said
    said = refused(store, written(tmp_path / "two.tar.gz", gzip.compress(one) + b"garbage"))
    assert "can't be read" in said
    load(store, written(tmp_path / "two.tar", one + b"\0" * 5000))


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path, store: Store) -> None:
    whole = bytearray(plain(tmp_path, file("vllm-1/second.py"), file("vllm-1/third.py")))
    at = whole.index(b"vllm-1/second.py")
    whole[at] ^= 1
    assert "header is damaged" in refused(store, written(tmp_path / "x.tar", bytes(whole)))


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_an_archive_that_was_cut_between_two_members_is_found(
    tmp_path: Path, store: Store, blocks: int
) -> None:
    whole = plain(tmp_path, file("vllm-1/second.py"))
    said = refused(store, written(tmp_path / "x.tar", whole[: blocks * 512]))
    assert "cut off" in said or "can't be read" in said


@pytest.mark.parametrize("number", [-1, -512, -(1 << 40)])
def test_a_size_below_zero_is_refused(tmp_path: Path, store: Store, number: int) -> None:
    whole = bytearray(plain(tmp_path))
    header = whole[:512]
    header[124:136] = b"\xff" + (number & ((1 << 88) - 1)).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole[:512] = header
    assert "a size below zero" in refused(store, written(tmp_path / "x.tar", bytes(whole)))


@pytest.mark.parametrize("size", ["-1", "-512", str(1 << 62), "9" * 5000, "x"])
def test_a_size_in_a_pax_header_is_looked_at_too(tmp_path: Path, store: Store, size: str) -> None:
    def add(out: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("vllm-1/odd.py")
        member.pax_headers = {"size": size}
        member.size = 2
        out.addfile(member, io.BytesIO(b"x\n"))

    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        file("vllm-1/first.py")(out)
        add(out)
        file("vllm-1/last.py")(out)
    if size == "x":
        # Python and GNU tar agree that this is nothing, so a part of the member is taken for the
        # next header.
        assert "can't be read" in refused(store, path)
    else:
        refused(store, path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_gigabytes_is_refused_before_it_is_in_memory(
    tmp_path: Path, store: Store, kind: bytes
) -> None:
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        member = tarfile.TarInfo("pax")
        member.type, member.size = kind, 64 << 20
        out.write(member.tobuf())
        for _ in range(64):
            out.write(b"\0" * (1 << 20))
    tracemalloc.start()
    try:
        said = refused(store, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"a header of {64 << 20} bytes" in said
    assert peak < 16 << 20


def test_an_archive_unpacks_to_so_much_and_no_more(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path, *(file(f"vllm-1/zeros{n}", b"\0" * 200_000) for n in range(10)))
    load(store, path)
    store.git("update-ref", "-d", REF)
    monkeypatch.setattr(tar, "SMALL", 1 << 20)
    assert "it unpacks to more than 1048576 bytes" in refused(store, path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_compression_is_read_and_an_archive_without_a_file_is_none(
    tmp_path: Path, store: Store, mode: str
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        special("vllm-1", tarfile.DIRTYPE)(out)
    assert "a.tar holds no file" in refused(store, path)
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        special("./vllm-1", tarfile.DIRTYPE)(out)
        file("./vllm-1/first.py")(out)
    commit = load(store, path)
    assert store.read(commit, "first.py") == b"x\n"
    store.git("update-ref", "-d", REF)
    whole = path.read_bytes()
    assert "can't be read" in refused(
        store, written(path, whole[:-7] if mode != "w" else whole[:900])
    )


COMMANDS = "x\nM 100644 inline vllm/evil.py\ndata 5\nevil\n\nfrom refs/heads/x\nreset refs/sm12x/"


@pytest.mark.parametrize("clone", [False, True])
@pytest.mark.parametrize("separator", ["\n", "\r", "\x0b"])
def test_a_name_that_holds_commands_for_the_store_is_refused(
    world: World, tmp_path: Path, clone: bool, separator: str
) -> None:
    world.good("plan")
    before = world.refs()
    folder = world.upstream.root
    if not clone:
        folder = tmp_path / "plain"
        shutil.copytree(world.upstream.root, folder, ignore=shutil.ignore_patterns(".git"))
    name = "x" + separator + "reset refs" + separator + "from 0"
    (folder / name).write_bytes(b"evil\n")

    done = world.run("plan", "--source", str(folder))

    assert done.status == 3
    assert "control character" in done.err
    assert "Traceback" not in done.err
    assert done.next
    assert world.refs() == before


def test_the_store_s_own_door_is_closed_to_such_a_name(store: Store) -> None:
    evil = Entry(path=COMMANDS, mode="100644", content=b"x")
    with pytest.raises(SourceError, match="control character"):
        import_entries(store, [evil], REF, "x\n")
    assert store.git("for-each-ref") == b""


def test_a_link_to_a_folder_is_a_link_of_the_tree(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "a.py").write_bytes(b"a\n")
    (folder / "alias").symlink_to("real")
    commit = import_entries(store, folder_entries(folder), REF, "x\n")
    rows = store.text("ls-tree", "-r", commit).splitlines()
    assert [row.split()[0] + " " + row.split("\t")[1] for row in rows] == [
        "120000 alias",
        "100644 real/a.py",
    ]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("make", [os.mkfifo, make_socket], ids=["fifo", "socket"])
def test_what_is_neither_file_nor_link_is_named(
    store: Store, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "plain").mkdir()
    make(tmp_path / "plain" / "odd")
    with pytest.raises(SourceError, match="'odd' is a pipe, a socket or a device"):
        list(folder_entries(tmp_path / "plain"))


def test_a_tracked_file_behind_a_link_is_not_read(store: Store, upstream: Repository) -> None:
    upstream.commit({"data/secret": b"ours\n", ".gitignore": b"data\n"})
    outside = upstream.root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"the builder's\n")
    shutil.rmtree(upstream.root / "data")
    (upstream.root / "data").symlink_to(outside)
    with pytest.raises(SourceError, match=r"'data/secret' is reached through a link"):
        list(folder_entries(upstream.root))


def test_a_submodule_of_a_source_is_said_to_be_left_out(world: World) -> None:
    inner = world.upstream.root / "third-party"
    subprocess.run(["git", "init", "--quiet", str(inner)], check=True)
    other = Repository(root=inner)
    other.commit({"a": b"a\n"})
    done = world.good("plan", "--source", str(world.upstream.root))
    assert "left out: 'third-party/', which is a repository of its own" in done.err
    head = other.text("rev-parse", "HEAD")
    world.upstream.git("update-index", "--add", "--cacheinfo", f"160000,{head},third-party")
    done = world.good("plan", "--source", str(world.upstream.root))
    assert "left out: 'third-party', which is a repository of its own" in done.err


def in_tree(upstream: Repository, store: Store, path: str, mode: str, content: bytes) -> str:
    """A commit whose tree has this entry, as another git would make it."""
    blob = upstream.git("hash-object", "-w", "--stdin", stdin=content).decode().strip()
    *folders, name = path.split("/")
    row = f"{mode} blob {blob}\t{name}\0".encode()
    for folder in reversed(folders):
        tree = upstream.git("mktree", "-z", stdin=row).decode().strip()
        row = f"040000 tree {tree}\t{folder}\0".encode()
    above = upstream.git("ls-tree", "-z", "HEAD")
    tree = upstream.git("mktree", "-z", stdin=above + row).decode().strip()
    commit = upstream.text("commit-tree", tree, "-m", "x")
    upstream.git("update-ref", "HEAD", commit)
    return fetched(store, upstream)


@pytest.mark.parametrize(
    ("path", "mode", "content", "said"),
    [
        ("a/.GIT/config", "100644", b"x", "leaves the tree"),
        ("a\nb", "100644", b"x", "control character"),
        ("VLLM/x", "100644", b"x", "'vllm', which is the same as 'VLLM'"),
        ("out", "120000", b"/etc/passwd", "link out of the tree"),
        ("vllm2/out", "120000", b"../../x", "link out of the tree"),
    ],
)
def test_a_tree_of_a_repository_goes_through_the_same_gate(
    store: Store, upstream: Repository, path: str, mode: str, content: bytes, said: str
) -> None:
    assert check_tree(store, fetched(store, upstream), refuse) == ()
    commit = in_tree(upstream, store, path, mode, content)
    with pytest.raises(SourceError, match=said):
        check_tree(store, commit, refuse)


def refuse(name: str, why: str) -> SourceError:
    return SourceError(f"{name} {why}")


def test_a_nul_in_a_link_s_pax_header_is_refused(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        file("vllm-1/first.py")(out)
        member = tarfile.TarInfo("vllm-1/l")
        member.type, member.linkname = tarfile.SYMTYPE, "a"
        member.pax_headers = {"linkpath": "first.py\0/../../x"}
        out.addfile(member)
    assert r"a control character (\x00)" in refused(store, path)
