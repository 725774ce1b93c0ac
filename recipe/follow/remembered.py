# SPDX-License-Identifier: Apache-2.0
"""Conflicts that a person has resolved, by what was merged, so that none need be resolved twice."""

from __future__ import annotations

from recipe.ground.digest import sha256
from recipe.objects.git import Store

# A resolution says itself which merge it is of; those of before said this alone.
SUBJECT = "resolved by hand"


def key(store: Store, before: str, after: str, stack: str) -> str:
    """The ref that names the merge of a change (before to after) into a stack."""
    trees = [store.tree_of(tree) for tree in (before, after, stack)]
    return f"refs/sm12x/resolved/{sha256(' '.join(trees).encode())}"


def recall(store: Store, key: str) -> str | None:
    """The tree that a person made of this very merge, if one did."""
    commit = store.commit_of(key)
    if commit is None:
        return None
    said = store.text("log", "-1", "--format=%B", commit)
    if said not in (SUBJECT, f"{SUBJECT}\n\n{key}"):
        return None  # the name was moved to something else
    return store.tree_of(commit)


def remember(store: Store, key: str, tree: str) -> None:
    store.set_ref(key, store.commit(tree, None, message=f"{SUBJECT}\n\n{key}\n"))


def forget(store: Store, key: str) -> None:
    store.git("update-ref", "-d", key)
