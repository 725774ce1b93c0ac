# SPDX-License-Identifier: Apache-2.0
"""A release with two inner sources, one of which has submodules, and real repositories of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.specifiers import SpecifierSet

from recipe.bases.releases import Archive, Base, InnerPin
from recipe.compile.inner.find import Request
from recipe.compile.inner.folders import InnerSource, inner_sources
from recipe.compile.inner.given import parse_given
from recipe.ground.project import Project
from recipe.objects.archive import import_entries
from recipe.objects.gate.names import Entry
from recipe.objects.git import open_store
from tests.recipe.repo import Repository, new_repository

CMAKELISTS = """\
set(CUTLASS_REVISION "v4.9.0")
if (DEFINED ENV{VLLM_CUTLASS_SRC_DIR})
  set(VLLM_CUTLASS_SRC_DIR $ENV{VLLM_CUTLASS_SRC_DIR})
endif()
FetchContent_Declare(cutlass GIT_REPOSITORY https://nowhere.example/cutlass.git
  GIT_TAG ${CUTLASS_REVISION} GIT_SHALLOW TRUE)
define_extension_target(_moe_C INCLUDE_DIRECTORIES ${CUTLASS_INCLUDE_DIR})
define_extension_target(spinloop DESTINATION vllm)
"""
KERNELS = """\
# A quote in code: install(CODE "file(MAKE \\"${X}\\")") must not confuse the reader.
install(CODE "file(MAKE_DIRECTORY \\"${CMAKE_INSTALL_PREFIX}/x\\")" COMPONENT _kernels_C)
if (DEFINED ENV{KERNELS_SRC_DIR})
  set(KERNELS_SRC_DIR $ENV{KERNELS_SRC_DIR})
endif()
FetchContent_Declare(kernels GIT_REPOSITORY https://nowhere.example/kernels.git
  GIT_TAG 0123456789012345678901234567890123456789
  GIT_SUBMODULES "third-party/cutlass" "third-party/fmt" GIT_PROGRESS TRUE)
file(READ "${kernels_SOURCE_DIR}/interface.py" TEXT)
set(KERNELS_SOURCES ${kernels_SOURCE_DIR}/csrc/api.cpp ${kernels_SOURCE_DIR}/csrc/one.cu)
set(KERNELS_INCLUDES ${kernels_SOURCE_DIR}/third-party/cutlass/include)
define_extension_target(_kernels_C SOURCES ${KERNELS_SOURCES})
"""
CMAKE = {
    "CMakeLists.txt": CMAKELISTS,
    "cmake/external_projects/kernels.cmake": KERNELS,
}
ARCHIVE = Archive(name="x", sha256="0" * 64)


def version_h(version: str) -> bytes:
    names = ("MAJOR", "MINOR", "PATCH")
    rows = (f"#define CUTLASS_{n} {v}\n" for n, v in zip(names, version.split("."), strict=True))
    return "".join(rows).encode()


def cutlass_files(version: str) -> dict[str, bytes]:
    return {
        "include/cutlass/cutlass.h": b"// cutlass\n",
        "include/cutlass/version.h": version_h(version),
        "tools/util/include/util.h": b"// util\n",
    }


@dataclass(frozen=True, kw_only=True)
class Inner:
    """The release, its repositories, and the project whose cache is used."""

    project: Project
    base: Base
    commit: str
    cutlass: Repository
    fmt: Repository
    kernels: Repository

    def ask(
        self, *needed: str, sources: tuple[str, ...] = (), offline: bool = True
    ) -> dict[str, InnerSource]:
        known = {pin.name for pin in self.base.inner}
        request = Request(
            base=self.base, needed=needed, given=parse_given(sources, known), offline=offline
        )
        return {one.name: one for one in inner_sources(self.project, self.commit, request)}

    def pinned(self, name: str, **changed: str) -> Inner:
        pins = (replace(p, **changed) if p.name == name else p for p in self.base.inner)
        return replace(self, base=replace(self.base, inner=tuple(pins)))


def make_inner(folder: Path) -> Inner:
    cutlass = new_repository(folder / "up" / "cutlass", cutlass_files("4.9.0"))
    cutlass.git("tag", "v4.9.0")
    fmt = new_repository(folder / "up" / "fmt", {"include/fmt/format.h": b"// fmt\n"})
    kernels = new_repository(folder / "up" / "kernels", kernels_files())
    for name, repository in (("cutlass", cutlass), ("fmt", fmt)):
        add_submodule(kernels, f"third-party/{name}", f"../{name}", repository)
    pin = kernels.text("rev-parse", "HEAD")
    project = Project(root=folder / "project", cache=folder / "cache")
    project.cache.mkdir()
    store = open_store(project.store)
    entries = (Entry(path=p, mode="100644", content=t.encode()) for p, t in sorted(CMAKE.items()))
    commit = import_entries(store, entries, "refs/vllm", "vllm\n")
    inner = (
        InnerPin(name="cutlass", repository=str(cutlass.root), pin="v4.9.0"),
        InnerPin(name="kernels", repository=str(kernels.root), pin=pin),
    )
    base = Base(
        tag="v9.1.0",
        commit="0" * 40,
        torch="2.11.0",
        cuda="13.0",
        python=SpecifierSet(">=3.10"),
        archive=ARCHIVE,
        wheels={"x86_64": ARCHIVE},
        components=("_moe_C", "_kernels_C"),
        inner=inner,
    )
    return Inner(
        project=project, base=base, commit=commit, cutlass=cutlass, fmt=fmt, kernels=kernels
    )


def kernels_files() -> Mapping[str, bytes]:
    return {
        "interface.py": b"import x\n",
        "csrc/api.cpp": b"int a;\n",
        "csrc/one.cu": b"int b;\n",
        "tools/run": b"#!/bin/sh\n",
    }


def add_submodule(parent: Repository, path: str, url: str, child: Repository) -> None:
    """As git submodule add would record it, without a clone."""
    commit = child.text("rev-parse", "HEAD")
    modules = parent.root / ".gitmodules"
    old = modules.read_text(encoding="utf-8") if modules.exists() else ""
    section = f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n'
    modules.write_text(old + section, encoding="utf-8")
    parent.git("add", ".gitmodules")
    parent.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    parent.git("commit", "--quiet", "-m", f"add {path}")
