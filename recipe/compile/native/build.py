# SPDX-License-Identifier: Apache-2.0
"""Find out which components are stale, compile those, and hand over what goes into the wheel.

What is stale is measured: the pristine and the patched tree are configured beside each other. The
answer depends on trees, architectures and the build environment alone, and is kept by these.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from recipe.bases.sources import store_of
from recipe.compile import component_store
from recipe.compile.configure import Build, Place, Step, configure, read_builds
from recipe.compile.inner.find import Kind as InnerKind
from recipe.compile.inner.find import Request
from recipe.compile.inner.folders import InnerSource, as_defines, as_env, declared_in, inner_sources
from recipe.compile.inner.tree import working_copy
from recipe.compile.native.wanted import Job
from recipe.compile.ninja import Compiled, compile_components
from recipe.compile.stale import Reason, best, changed, enough, merged, unserved
from recipe.compile.toolchain import sccache
from recipe.compile.toolchain.environment import NativeEnv
from recipe.compile.toolchain.symbols import check_symbols
from recipe.gpu.arch import DEVICES, Verdict, rank
from recipe.gpu.code import verdicts
from recipe.ground import proven, scratch
from recipe.ground.digest import sha256_of
from recipe.ground.errors import AuditError, UsageError
from recipe.ground.lock import hold
from recipe.ground.project import Project

# Inner sources whose own build writes into their folder.
BUILT_IN = ("deepgemm",)
# Bump when what a configure is read for changes.
SCHEMA = 3
# A file of the tree in a command that has this machine's folders left out.
TREE_FILE = re.compile(r"(?<![\w/.-])tree/([\w./+-]+)")


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """files: wheel members of each component, as they lie in the cache. inner: the sources they
    are from. compiled is None where all of them were in the cache."""

    files: Mapping[str, Mapping[str, Path]]
    keys: Mapping[str, str]
    inner: tuple[InnerSource, ...]
    compiled: Compiled | None


def stale(
    project: Project,
    env: NativeEnv,
    job: Job,
    published: Mapping[str, Mapping[str, Verdict]],
    inner: Iterable[Reason] = (),
) -> list[Reason]:
    """What must be compiled for the patched tree on the asked architectures, each once.

    inner: components of an inner source that isn't upstream's, whether CMake makes them or not.
    """
    pristine = configured(project, env, job, job.applied.base)
    patched = configured(project, env, job, job.applied.head)
    raised = [reason for reason in inner if reason.component in patched]
    made_otherwise = merged([*changed(pristine, patched), *raised])
    known = {reason.component for reason in made_otherwise}
    code = unserved(patched, published, job.asked)
    return [*made_otherwise, *(reason for reason in code if reason.component not in known)]


def configured(project: Project, env: NativeEnv, job: Job, commit: str) -> dict[str, Build]:
    """CMake's answer for a tree, with nothing behind its inner sources; kept in the cache."""
    store = store_of(project)
    parts = [SCHEMA, store.tree_of(commit), job.arch_list, env.identity]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    path = project.cache / "native" / "configured" / f"{key}.json"
    kept = proven.recall(path, key)
    if kept is not None:
        with suppress(ValueError, KeyError, TypeError):
            return {one["name"]: parse_build(one) for one in kept["builds"]}
    request = Request(base=job.base, needed=(), offline=True)
    with scratch.folder(project.cache, "configure") as folder:
        place = place_of(folder, inner_sources(project, commit, request))
        place.tree.mkdir()
        store.export(commit, place.tree)
        configure(env, place, job.arch_list)
        builds = with_scripts(read_builds(env, place, job.base.components), place.tree)
    proven.keep(path, key, {"builds": [asdict(build) for build in builds.values()]})
    return builds


def with_scripts(builds: Mapping[str, Build], tree: Path) -> dict[str, Build]:
    """What a script compiles shows no sources; files of the tree that its commands name count."""
    return {
        name: build if build.steps else replace(build, files=named_files(build.link, tree))
        for name, build in builds.items()
    }


def named_files(commands: str, tree: Path) -> dict[str, str]:
    """sha256 by path of the tree's files that stand in a component's commands."""
    paths = sorted({path for path in TREE_FILE.findall(commands) if (tree / path).is_file()})
    return {f"tree/{path}": sha256_of(tree / path) for path in paths}


def parse_build(entry: dict[str, object]) -> Build:
    fields = dict(entry)
    steps = fields.pop("steps")
    assert isinstance(steps, list)
    return Build(steps=tuple(Step(**step) for step in steps), **fields)  # type: ignore[arg-type]


def place_of(folder: Path, inner: tuple[InnerSource, ...], launcher: str | None = None) -> Place:
    """The folders of a build; its inner sources are linked in, so that commands name no cache."""
    links = folder / "inner"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    for one in inner:
        if one.name in BUILT_IN and one.kind != InnerKind.PLACEHOLDER:
            working_copy(one.folder, links / one.name)
        else:
            (links / one.name).symlink_to(one.folder)
    linked = [replace(one, folder=links / one.name) for one in inner]
    return Place(
        tree=folder / "source",
        build=folder / "build",
        inner=as_env(linked),
        defines=as_defines(linked),
        launcher=launcher,
    )


def request_for(job: Job, names: tuple[str, ...]) -> Request:
    return Request(
        base=job.base,
        needed=names,
        given=job.given,
        series=job.inner_series,
        offline=job.offline,
    )


def rebuild(project: Project, env: NativeEnv, job: Job, names: tuple[str, ...]) -> Rebuilt:
    """Compile the components that the store lacks, check all, and give their files."""
    inner = inner_sources(project, job.applied.head, request_for(job, names))
    native = project.cache / "native"
    key = hashlib.sha256(json.dumps([str(env.folder), job.arch_list]).encode()).hexdigest()[:8]
    crossed = f"{env.target.machine}-" if env.target else ""
    work = native / "work" / f"{job.base.tag}-{crossed}{key}"
    with (
        hold(project.cache / "locks" / f"native-{work.name}.lock", f"the build of {work.name}"),
        sccache.compiler_cache(job.cache, project, work, offline=job.offline) as cache,
    ):
        place = prepare(project, job, work, inner, cache.tool if cache else None)
        configure(env, place, job.arch_list)
        builds = with_scripts(read_builds(env, place, job.base.components), place.tree)
        check_names(names, builds, job)
        used = identities(project, job, inner, names)
        keys = {n: component_store.key_of(builds[n], env.identity, used[n]) for n in names}
        shelf = native / "components"
        files = {n: component_store.stored(shelf, n, keys[n]) for n in names}
        absent = tuple(name for name in names if files[name] is None)
        compiled = None
        if absent:
            compiled = compile_components(
                env,
                place,
                job.arch_list,
                absent,
                asked_jobs=job.jobs,
                cache=cache,
                peaks=native,
                into=work / "installed",
            )
            for name in absent:
                check(env, builds[name], compiled.installed[name], job.asked)
                files[name] = component_store.keep(
                    shelf, name, keys[name], compiled.installed[name]
                )
            shutil.rmtree(work / "installed")
    return Rebuilt(
        files={name: found for name, found in files.items() if found is not None},
        keys=keys,
        inner=tuple(one for one in inner if one.kind != InnerKind.PLACEHOLDER),
        compiled=compiled,
    )


def identities(
    project: Project, job: Job, inner: tuple[InnerSource, ...], names: tuple[str, ...]
) -> dict[str, dict[str, str]]:
    """By component, the trees of the inner sources that it is made of; other sources of the same
    run don't change its bytes."""
    made = {one.name: one.targets for one in declared_in(store_of(project), job.applied.head)}
    real = [one for one in inner if one.kind != InnerKind.PLACEHOLDER]
    return {n: {one.name: one.identity for one in real if n in made[one.name]} for n in names}


def prepare(
    project: Project,
    job: Job,
    work: Path,
    inner: tuple[InnerSource, ...],
    launcher: str | None,
) -> Place:
    """The work folder, as a killed run of the same inputs left it or else made anew.

    The objects of another tree would be compiled again by their dates; the compiler's cache has
    those that didn't change.
    """
    made = {
        "commit": job.applied.head,
        "inner": {one.name: one.identity for one in inner},
        "launcher": launcher,
    }
    marker = work / "made.json"
    try:
        same = json.loads(marker.read_text(encoding="utf-8")) == made
    except (OSError, ValueError):
        same = False
    if not same:
        marker.unlink(missing_ok=True)
        for name in ("source", "build"):
            shutil.rmtree(work / name, ignore_errors=True)
        (work / "source").mkdir(parents=True)
        store_of(project).export(job.applied.head, work / "source")
        scratch.write_whole(marker, json.dumps(made).encode())
    return place_of(work, inner, launcher)


def check_names(names: tuple[str, ...], builds: Mapping[str, Build], job: Job) -> None:
    unknown = [name for name in names if name not in builds]
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)}: upstream's CMake makes no such component of {job.base.tag} for "
            f"{job.arch_list}",
            means=f"It makes {', '.join(sorted(builds))}.",
            next=f"python build.py plan --base {job.base.tag} --arch '{job.arch_list}'",
        )


def check(
    env: NativeEnv, build: Build, installed: Mapping[str, Path], asked: tuple[str, ...]
) -> None:
    """Nothing is trusted unseen: symbols against torch, GPU code against what nvcc was told."""
    folders = env.library_folders
    for path, file in installed.items():
        if not path.endswith(".so"):
            continue
        check_symbols(file, folders)
        devices = [d for d in DEVICES if enough(asked, d) & {best(build, d)}]
        found = verdicts(file, devices)
        lacking = [device for device in devices if rank(found[device]) > rank(best(build, device))]
        if lacking:
            raise AuditError(
                f"{path} was compiled for {', '.join(build.targets)} and holds no such code for "
                f"{', '.join(lacking)}",
                means="The compiler and the object disagree.",
                next="compile it anew without a cache: --compiler-cache none",
            )
