# SPDX-License-Identifier: Apache-2.0
"""The folders CMake is given for a release's inner sources: real where something is built of them.

Where a source comes from, first to last: what the user names, the cache, a package that carries it,
git. What isn't needed is a placeholder, so that a release configures with nothing else at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from recipe.bases.pins import Reader, text_of
from recipe.bases.sources import store_of
from recipe.compile.inner.cmake import Declared, declared_sources, placeholder, scripted
from recipe.compile.inner.find import Kind, Request, Series, Tree, find
from recipe.compile.inner.tree import materialise, write_entries
from recipe.ground.errors import SourceError
from recipe.ground.lock import hold
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.objects.archive import import_entries
from recipe.objects.gate.names import Entry, Gate, escaped
from recipe.objects.gate.trees import check_tree
from recipe.objects.git import Store
from recipe.objects.ids import tree_id
from recipe.series.tree import apply_all


@dataclass(frozen=True, kw_only=True)
class InnerSource:
    """One folder for CMake. variable: the environment variable that names it. origin: for a person.

    identity: the git tree id of everything in the folder, for records and cache keys.
    pinned: whether that is what bases.toml or this recipe pins; never of what was named by hand.
    """

    name: str
    variable: str
    kind: Kind
    folder: Path
    origin: str
    identity: str
    pinned: bool


def declared_in(store: Store, commit: str) -> tuple[Declared, ...]:
    """The inner sources of a vLLM tree in the store."""
    return declared_sources(*cmake_of(store, commit))


def scripted_in(store: Store, commit: str) -> frozenset[str]:
    """The targets of a vLLM tree that CMake doesn't compile itself."""
    return scripted(*cmake_of(store, commit))


def cmake_of(store: Store, commit: str) -> tuple[Reader, list[str]]:
    """Upstream's own CMake files that name targets and sources, and how they are read."""
    listing = store.text("ls-tree", "--name-only", commit, "--", "cmake/external_projects/")
    return (
        lambda path: text_of(store.read(commit, path), path),
        ["CMakeLists.txt", *listing.splitlines()],
    )


def inner_sources(project: Project, commit: str, request: Request) -> tuple[InnerSource, ...]:
    """A folder for every inner source of the vLLM tree at `commit`, by name.

    SourceError (3) says which source is missing for which component, before anything is compiled.
    """
    wanted = declared_in(store_of(project), commit)
    return tuple(inner_source(project, one, request) for one in wanted)


def inner_source(project: Project, declared: Declared, request: Request) -> InnerSource:
    users = [name for name in declared.targets if name in request.needed]
    if not users:
        files = placeholder(declared)
        entries = (Entry(path=p, mode="100644", content=c) for p, c in sorted(files.items()))
        tree = Tree(kind=Kind.PLACEHOLDER, origin="nothing", pinned=True, entries=tuple(entries))
    else:
        tree = find(project, declared, request, users)
        tree = patched(project, declared.name, tree, request.series.get(declared.name))
    return folder_of(project, declared, tree)


def folder_of(project: Project, declared: Declared, tree: Tree) -> InnerSource:
    store = store_of(project)
    write: Callable[[Path], None]

    def refuse(name: str, why: str) -> SourceError:
        return SourceError(
            f"{declared.name} from {tree.origin}: {name} {why}",
            means="Nothing was compiled of it.",
            next=f"name another: --sources {declared.name}=PATH",
        )

    if tree.commit is not None:
        commit = tree.commit
        for path in check_tree(store, commit, refuse):
            say(f"  left out of {declared.name}: {escaped(path)}, a submodule")
        identity = store.tree_of(commit)
        write = lambda folder: store.export(commit, folder)  # noqa: E731
    else:
        entries = tuple(Gate(refuse=refuse).through(tree.entries))
        identity = tree_id(entries)
        write = lambda folder: write_entries(entries, folder)  # noqa: E731
    folder = materialise(project, declared.name, identity, write)
    if tree.kind != Kind.PLACEHOLDER:
        below = declared.subfolder if (folder / declared.subfolder).is_dir() else ""
        folder = folder / below
        check_complete(declared, folder, tree.origin)
    return InnerSource(
        name=declared.name,
        variable=declared.variable,
        kind=tree.kind,
        folder=folder,
        origin=tree.origin,
        identity=identity,
        pinned=tree.pinned,
    )


def check_complete(declared: Declared, folder: Path, origin: str) -> None:
    lacking = [path for path in declared.required if not (folder / path).exists()]
    if lacking:
        raise SourceError(
            f"{declared.name} from {origin} lacks {', '.join(lacking[:3])}"
            + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""),
            means="vLLM's CMake names these. An archive of a repository has no submodules in it.",
            next=f"name one that has them: --sources {declared.name}=PATH",
        )


def patched(project: Project, name: str, tree: Tree, series: Series | None) -> Tree:
    """The source with its own series on it, exactly as vLLM's goes on vLLM."""
    if series is None or not (series.patches or series.files):
        return tree
    store = store_of(project)
    commit = tree.commit
    if commit is None:
        with hold(project.cache / "locks" / "store.lock", "the object store"):
            ref = f"refs/sm12x/folder/{name}"
            commit = import_entries(store, iter(tree.entries), ref, f"{name}\n")
    applied = apply_all(store, commit, series.patches, series.files)
    origin = f"{tree.origin}, with {len(series.patches)} patches"
    return replace(tree, commit=applied.head, entries=(), origin=origin)


def as_env(sources: Iterable[InnerSource]) -> dict[str, str]:
    """Environment for CMake, all but what must go by `as_defines`."""
    return {one.variable: str(one.folder) for one in sources if not by_define(one)}


def as_defines(sources: Iterable[InnerSource]) -> dict[str, str]:
    """CMake cache entries (-D) for the sources that a variable would install differently.

    With VLLM_FLASH_ATTN_SRC_DIR vLLM puts a link to the folder into the wheel's place instead of
    the Python files with their imports rewritten; CMake's own override fetches nothing either.
    """
    return {
        f"FETCHCONTENT_SOURCE_DIR_{one.name.upper()}": str(one.folder)
        for one in sources
        if by_define(one)
    }


def by_define(source: InnerSource) -> bool:
    return source.name == "vllm-flash-attn"


def as_record(sources: Iterable[InnerSource]) -> list[dict[str, str | bool]]:
    """What records and reports say of them; no path of this machine."""
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "origin": one.origin,
            "tree": one.identity,
            "pinned": one.pinned,
        }
        for one in sources
        if one.kind != Kind.PLACEHOLDER
    ]
