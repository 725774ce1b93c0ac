# SPDX-License-Identifier: Apache-2.0
"""What `--version` says: enough to know which recipe somebody ran."""

from __future__ import annotations

import platform
import tomllib

from recipe.bases.releases import load_bases
from recipe.ground import run
from recipe.ground.errors import RecipeError
from recipe.ground.project import Project
from recipe.ground.text import read_text
from recipe.objects.settings import ISOLATED


def version(project: Project) -> str:
    """The project's version and commit, the newest pinned release, and Python's version."""
    described = tomllib.loads(read_text(project.root / "pyproject.toml"))["project"]
    newest = load_bases(project.bases_file).find("latest").tag
    commit = commit_of(project)
    return (
        f"{described['name']} {described['version']}{f' ({commit})' if commit else ''}, "
        f"vLLM up to {newest}, Python {platform.python_version()}"
    )


def commit_of(project: Project) -> str:
    """The checkout's commit, with -dirty where files differ; "" without git or a checkout."""
    if not (project.root / ".git").exists():  # a folder around it may be a repository, too
        return ""
    command = ["git", "-C", str(project.root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return run.output(command, env=ISOLATED).decode().strip()
    except (RecipeError, OSError):
        return ""
