# SPDX-License-Identifier: Apache-2.0
"""What comes from upstream: archives, trees, index pages, build files."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from packaging.version import Version

from recipe.bases import download, index, pins, transfer
from recipe.bases.components import component_name, lost_pythons, pythons_of
from recipe.compile import deepgemm_uses
from recipe.compile.inner import cmake
from recipe.compile.toolchain import cross, host_compiler, rust
from recipe.gpu import arch
from recipe.ground import secret
from recipe.ground.errors import ConfigError
from recipe.objects import foreign
from recipe.objects.gate.tar import tar_entries
from tests.fuzz.parser import Parser, saying, text
from tests.recipe import small

PAGE = "https://index.example/simple/vllm/"


def tar(content: bytes, folder: Path) -> None:
    path = folder / "source.tar.gz"
    path.write_bytes(content)
    list(tar_entries(path))


def tars() -> list[bytes]:
    packed = small.make_sdist({"vllm/a.py": b"a\n", "setup.sh": b"#!/bin/sh\n"})
    return [packed, gzip.decompress(packed)[: 12 * tarfile.BLOCKSIZE]]


def summed_tar(content: bytes, folder: Path) -> None:
    """The same with right sums in its headers, without which nothing else of them is looked at."""
    blocks = bytearray(content)
    for start in range(0, len(blocks) - tarfile.BLOCKSIZE + 1, tarfile.BLOCKSIZE):
        block = blocks[start : start + tarfile.BLOCKSIZE]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    tar(bytes(blocks), folder)


def plain_tars() -> list[bytes]:
    made = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, kind in (("vllm-1/" + "a" * 120, b"0"), ("vllm-1/l", b"2"), ("vllm-1", b"5")):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "a/../b" if kind == b"2" else ""
                member.size = 3 if kind == b"0" else 0
                archive.addfile(member, io.BytesIO(b"abc"))
        made.append(out.getvalue())
    return made


@cache
def page_reader() -> Any:
    """The recipe's own, made once: it reads the system's certificates."""
    reader = transfer.page_reader([PAGE])
    reader._mounts = {}
    return reader


@cache
def tags_here() -> list[Any]:
    """What wheels fit here: unearth asks for each page, and no page changes it."""
    from unearth.pep425tags import get_supported

    return list(get_supported())


def page(kind: str) -> Callable[[bytes, Path], object]:
    """A page as it comes over HTTP, read by unearth with the recipe's own bounds."""

    def read(content: bytes, folder: Path) -> None:
        import httpx2

        def answer(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, content=content, headers={"Content-Type": kind})

        reader = page_reader()
        reader._transport = httpx2.MockTransport(answer)
        with (
            mock.patch.object(download, "page_reader", lambda urls: nullcontext(reader)),
            mock.patch.object(download, "within", lambda seconds, call: call()),
            mock.patch("unearth.evaluator.get_supported", lambda *args, **named: tags_here()),
            mock.patch.object(index, "index_urls", lambda: ["https://index.example/simple/"]),
            mock.patch.object(download, "index_urls", lambda: ["https://index.example/simple/"]),
        ):
            for _, link in download.list_files("vllm"):
                secret.same_place(link.url, PAGE)

    return read


def build_files(content: bytes, folder: Path) -> None:
    read = as_file(content)
    pins.inner_pins(read, ["CMakeLists.txt"])
    cmake.scripted(read, ["CMakeLists.txt"])
    given = read("CMakeLists.txt")
    for one in pins.file_pins(given):
        cmake.paths_below(one.name, pins.commands(given))
    host_compiler.wanted_gcc(given)
    arch.plan(("12.0", "12.1"), given, "13.0", Version("0.33"))


def as_file(content: bytes) -> Callable[[str], str]:
    def read(path: str) -> str:
        return pins.text_of(content, path)

    return read


def pinned(content: bytes, folder: Path) -> None:
    """Each file that a pin is read from, whichever it is."""
    read = as_file(content)
    problems = []
    for one in (pins.commit, pins.torch_version, pins.python_range, pins.cuda_version):
        try:
            one(read)
        except ConfigError as error:
            problems.append(error)
    if len(problems) == 4:
        raise problems[0]


def pinned_files() -> list[bytes]:
    return [
        small.VERSION_FILE,
        b'{"variable": {"CUDA_VERSION": {"default": "13.0.1"}}}',
        b'[project]\nrequires-python = ">=3.10,<3.15"\n',
        b"numba == 0.65.0\n# comment\ntorch==2.11.0\ntorchaudio==2.11.0\n",
    ]


def rust_files(content: bytes, folder: Path) -> None:
    for path in (rust.TOOLCHAIN, rust.LOCK):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    try:
        rust.vendored(folder, folder / "crates")
    finally:
        rust.toolchain(folder)


def python_source(content: bytes, folder: Path) -> None:
    path = folder / "cpp_extension.py"
    path.write_bytes(content)
    given = pins.text_of(content, "vllm/utils/deep_gemm.py")
    deepgemm_uses.uses_in(["vllm/a.py"], lambda _: given)
    cross.literal(path, "COMMON_NVCC_FLAGS")


def repository(content: bytes, folder: Path) -> None:
    """The files that say where a foreign repository's git folder is, and its settings."""
    git, rest = content.partition(b"\n\n")[::2]
    (folder / "own").mkdir()
    (folder / "own" / "HEAD").write_bytes(rest)
    (folder / "own" / "commondir").write_bytes(rest)
    (folder / ".git").write_bytes(git)
    with saying(rest):
        foreign.settings_of(foreign.places_of(folder).common)


def members(content: bytes, folder: Path) -> None:
    named = text(content).split("\n")
    for component in sorted({component_name(name) for name in named})[:3]:
        lost_pythons(pythons_of(named, component), pythons_of(named[1:], component))
        lost_pythons(None, pythons_of(named, component))


NAMES = b"vllm/_C.abi3.so\nvllm/third_party/deep_gemm/_C.cpython-312-x86_64-linux-gnu.so\nvllm/x.so"


def addresses(content: bytes, folder: Path) -> None:
    given = text(content)
    secret.hidden(given), secret.plain(given), secret.authorization(given)
    secret.same_place(given, given[::-1])


PARSERS = (
    Parser(name="archive-tar", read=tar, made=tars, largest=32 << 10),
    Parser(name="archive-members", read=summed_tar, made=plain_tars, largest=32 << 10),
    Parser(name="index-page-html", read=page("text/html")),
    Parser(name="index-page-json", read=page("application/vnd.pypi.simple.v1+json")),
    Parser(name="cmake", read=build_files),
    Parser(name="pinned-files", read=pinned, made=pinned_files),
    Parser(name="cargo", read=rust_files),
    Parser(name="python-source", read=python_source),
    Parser(name="git-folder", read=repository, made=lambda: [b"gitdir: own\n\n../.git"]),
    Parser(name="components", read=members, made=lambda: [NAMES]),
    Parser(
        name="addresses", read=addresses, made=lambda: [b"https://bot:token@host.example/x?sig=1"]
    ),
)
