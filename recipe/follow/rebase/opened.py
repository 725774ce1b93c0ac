# SPDX-License-Identifier: Apache-2.0
"""The trees that a rebase is between: from archives, or from git with the commits between them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from recipe.bases.address import git_address
from recipe.bases.releases import Base, Bases
from recipe.bases.sources import deepgemm_source, store_of, vllm_source
from recipe.follow.rebase.advance import Rebase, read
from recipe.follow.rebase.checks import Asked
from recipe.ground import run
from recipe.ground.digest import sha256
from recipe.ground.errors import SourceError, UsageError
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.ground.secret import plain
from recipe.objects.git import NotThere, Store


def open_rebase(
    asked: Asked,
    project: Project,
    bases: Bases,
    onto: Base,
    origin: Base,
    history: bool | None = None,
) -> Rebase:
    """history: whether the commits between the releases speak, too; None: if they can be had."""
    source: str = asked.source
    address = git_address(source)
    if source not in ("auto", "sdist") and address is None:
        raise UsageError(
            f"--source {source}: a folder is one release, and a rebase needs two",
            next="use auto, git, a git address or the path of a mirror",
        )
    store = store_of(project)
    source_of = source_finder(asked, project, {onto.tag, origin.tag})
    from_git = address is not None and asked.upstream == "vllm"
    if from_git and history is None:
        source_of(origin)
        source_of(onto)
        history = fetched_history(store, str(address), origin, onto, offline=asked.offline)
    elif from_git and history:
        check_history(project, store, str(address), origin, onto)
    return Rebase(
        project=project,
        bases=bases,
        store=store,
        onto=onto,
        origin=origin,
        upstream=asked.upstream,
        patches=read(project, asked.upstream),
        source_of=source_of,
        history=bool(history),
    )


def source_finder(asked: Asked, project: Project, named: Collection[str]) -> Callable[[Base], str]:
    """Where each release's tree is from. named: the two that the rebase is between.

    A mirror need not have the others: their trees are the pinned archives' then.
    """
    find = vllm_source if asked.upstream == "vllm" else deepgemm_source

    def source_of(base: Base) -> str:
        try:
            return find(project, base, source=asked.source, offline=asked.offline).commit
        except NotThere as error:
            if base.tag in named or asked.upstream != "vllm":
                raise
            say(f"  {base.tag} from its archive: {error.what}")
            return find(project, base, source="auto", offline=asked.offline).commit

    return source_of


def history_ref(url: str, origin: Base, onto: Base) -> str:
    text = f"{plain(url)} {origin.tag} {onto.tag}"
    return f"refs/sm12x/history/{sha256(text.encode())}"


def check_history(project: Project, store: Store, url: str, origin: Base, onto: Base) -> None:
    """What was decided with the commits between two releases isn't gone on with without them."""
    if store.commit_of(history_ref(url, origin, onto)) is None:
        raise SourceError(
            f"the cache {project.cache} no longer holds the commits from {origin.tag} to "
            f"{onto.tag}, which this rebase was begun with",
            means="Without them it would judge the patches that are left otherwise.",
            next="python build.py rebase --abort, and start it again",
        )


def fetched_history(store: Store, url: str, origin: Base, onto: Base, *, offline: bool) -> bool:
    """Fetch the commits between two releases; without them a rebase has only the trees to go by.

    Those that are in the store are there for good: the server isn't asked again.
    """
    there = history_ref(url, origin, onto)
    if store.commit_of(there) is not None:
        return True
    if offline:
        return False
    try:
        store.fetch_history(url, onto.tag, origin.tag)
        store.set_ref(there, store.text("rev-parse", f"refs/sm12x/tags/{onto.tag}^{{commit}}"))
    except run.CommandFailed as error:
        say(f"  going on without the commits between them: {error.stderr.strip()}")
        return False
    return True
