# SPDX-License-Identifier: Apache-2.0
"""What a fetch brought, read by GitPython."""

from __future__ import annotations

from pathlib import Path

from recipe.objects.settings import ISOLATED


class NoCommit(Exception):
    """A name that leads to no commit in the store; the text says why."""


def fetched_commit(store: Path, name: str) -> str:
    """The id of the commit that a ref, a tag or a full id leads to; NoCommit if to none."""
    import git as gitpython

    try:
        with (
            gitpython.Repo(store) as repository,
            repository.git.custom_environment(**ISOLATED, GIT_DIR=str(store)),
        ):
            commit = repository.commit(name)
            # An id of zeros is a commit to GitPython until it is looked for.
            repository.odb.info(commit.binsha)
            return commit.hexsha
    except (gitpython.exc.ODBError, gitpython.GitError, ValueError, IndexError) as error:
        raise NoCommit(f"{name} leads to no commit: {error}") from None
