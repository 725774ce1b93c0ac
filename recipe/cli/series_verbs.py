# SPDX-License-Identifier: Apache-2.0
"""What the verbs that work on the series do: from parsed options to a text and a JSON document.

What is heavy is imported in the verb that uses it, after the first line is out.
"""

from __future__ import annotations

import argparse
import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.bases.releases import Base, Bases, load_bases
from recipe.cli.verbs import greet, show
from recipe.ground.errors import UsageError
from recipe.ground.log import say
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.bases.sources import Source
    from recipe.follow.matrix.table import Matrix
    from recipe.objects.git import Store
    from recipe.series.topics import Series


def run_apply(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.series import tree

    series, store, source = find_series(options, project, bases, base)
    patches = tree.until(series.patches, options.until)
    files = series.files if options.until is None else ()
    applied = tree.apply_all(store, source.commit, patches, files)
    tree.write_repository(store, applied, options.tree.resolve(), base.tag)
    show(
        options,
        f"{len(applied.commits)} commits on {base.tag} in {options.tree}\n"
        f"  git -C {options.tree} log --oneline base-{base.tag}..",
    )
    return {
        "base": base.tag,
        "tree": str(options.tree),
        "commit": applied.head,
        "commits": [{"patch": path, "commit": commit} for path, commit in applied.commits],
    }


def find_series(
    options: argparse.Namespace, project: Project, bases: Bases, base: Base
) -> tuple[Series, Store, Source]:
    """The series on the base, and the source that was asked for, in the store."""
    from recipe.bases import sources
    from recipe.series.topics import resolve_series

    series = resolve_series(project, bases, base, options.upstream)
    source = sources.upstream_source(
        project, base, options.upstream, source=options.source, offline=options.offline
    )
    return series, sources.store_of(project), source


def run_export(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.series import export, tree

    series, store, source = find_series(options, project, bases, base)
    applied = tree.apply_all(store, source.commit, series.patches, series.files)
    target: Path = options.quilt or options.git
    write = export.export_quilt if options.quilt else export.export_git
    names = write(store, series, applied, target.resolve())
    then = (
        f"QUILT_PATCHES={target} quilt push -a" if options.quilt else f"git am -k {target}/*.patch"
    )
    show(options, f"{len(names)} patches for {base.tag} in {target}\n  {then}")
    return {"base": base.tag, "folder": str(target), "patches": names}


def run_lint(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from dataclasses import asdict

    from recipe.series.lint import lint

    rows = lint(project, load_bases(project.bases_file))
    lines = [f"{'base':9}{'patches':>8}{'files':>7}{'added':>7}{'removed':>9}"]
    for r in rows:
        lines.append(f"{r.base:9}{r.patches:8}{r.files:7}{r.added:7}{r.removed:9}")
    show(options, "\n".join(lines) if options.stats else "the series is in order")
    return {"touched": [asdict(row) for row in rows]}


def run_matrix(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases = load_bases(project.bases_file)
    say(f"{len(bases.releases)} releases; cache {project.cache}")
    from recipe.follow.matrix import store as matrix_store
    from recipe.follow.matrix import text as matrix_text

    found = matrix_store.known_matrix(project, bases, offline=options.offline)
    if options.html is not None:
        write_page(project, found, options.html)
    show(options, matrix_text.as_text(found))
    return matrix_store.as_json(found)


def write_page(project: Project, found: Matrix, path: Path) -> None:
    from recipe.follow.matrix import html as matrix_html
    from recipe.ground import scratch
    from recipe.series import overlay
    from recipe.series import topics as series

    digest = overlay.patchset_digest(project, series.read_series(project), series.UPSTREAMS)
    place = path.resolve()
    try:
        if place.exists() and not place.is_file():
            raise OSError(errno.EEXIST, "it isn't a file")
        scratch.write_whole(place, matrix_html.as_html(found, patchset=digest))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UsageError(
            f"can't write {path}: {error.strerror}",
            means="The matrix itself is computed and stored.",
            next="name another file: python build.py matrix --html FILE",
        ) from error
    say(f"  the page is {path}")


def run_rebase(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.cli.series import rebase as rebase_verb

    return rebase_verb.run_rebase(options, project)


def run_bisect(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.follow import bisect

    series, store, source = find_series(options, project, bases, base)
    verdict = bisect.bisect(project, store, base, series, source.commit, options.test)
    show(options, bisect.as_text(verdict))
    return bisect.as_json(verdict)


def run_refresh(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.ground.errors import UsageError
    from recipe.ground.lock import hold
    from recipe.series.edit import refresh
    from recipe.series.edit.canonical import open_stacks

    if options.tree and options.patches:
        raise UsageError(
            "--tree takes every commit of the tree; no patch can be named beside it",
            next=f"python build.py refresh --tree {options.tree}",
        )
    again = ["--tree", str(options.tree)] if options.tree else options.patches
    stacks = open_stacks(project, load_bases(project.bases_file), offline=options.offline)
    with hold(project.cache / "locks" / "series.lock", "the series"):
        if options.tree:
            found = refresh.from_tree(stacks, options.tree, options.upstream)
        else:
            found = refresh.from_files(stacks, options.patches)
        if options.check:
            refresh.check_nothing(found, " ".join(["python build.py refresh", *again]))
        refresh.write(project, found.draft)
    show(options, refresh.as_text(found))
    return refresh.as_json(found)


def run_new(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.series.edit import start
    from recipe.series.topics import read_series

    start.check_topic(read_series(project), options.topic)
    series, store, source = find_series(options, project, bases, base)
    started = start.start(
        store,
        bases,
        base,
        series,
        source.commit,
        topic=options.topic,
        after=options.after,
        target=options.tree.resolve(),
    )
    then = [
        f"cd {options.tree}   # edit; new files with the behaviour go into overlay/",
        "git add -A && git commit   # the message starts from the trailers",
        f"write {started.test}",
        f"python build.py refresh --tree {options.tree}",
    ]
    where = f"after {started.after}" if started.after else "on upstream itself"
    show(options, "\n  ".join([f"{options.topic} starts on {base.tag}, {where}", *then]))
    return {
        "base": base.tag,
        "topic": options.topic,
        "tree": str(options.tree),
        "after": started.after,
        "commit": started.applied.head,
        "next": then,
    }
