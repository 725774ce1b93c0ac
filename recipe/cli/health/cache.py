# SPDX-License-Identifier: Apache-2.0
"""Whether what the cache keeps is what was put there, and what becomes of it where it isn't."""

from __future__ import annotations

import shutil
from pathlib import Path

from recipe.cli.health.finding import Finding
from recipe.compile import component_store
from recipe.ground import proven
from recipe.ground.environments import made as environment
from recipe.ground.lock import hold
from recipe.ground.project import Project
from recipe.objects import health

# Folders of answers that are found out anew when they are damaged.
ANSWERS = ("audit", "gpu-code", "matrix", "native/configured")
MEND = "python build.py doctor --mend"


def examine(project: Project) -> list[Finding]:
    """The object store, kept answers, components and environments, each to its last file."""
    bad = {
        "object store": health.damaged(project.store),
        "kept answers": answers(project),
        "kept components": components(project),
        "kept environments": environments(project),
    }
    return [finding(name, found) for name, found in bad.items()]


def finding(name: str, bad: list[Path]) -> Finding:
    others = f" and {len(bad) - 3} others" if len(bad) > 3 else ""
    return Finding(
        name=name,
        good=not bad,
        detail=f"damaged: {', '.join(map(str, bad[:3]))}{others}" if bad else "as it was written",
        needed_by="every verb that reads it",
        next=MEND,
    )


def answers(project: Project) -> list[Path]:
    return [path for name in ANSWERS for path in proven.damaged(project.cache / name)]


def components(project: Project) -> list[Path]:
    places = sorted((project.cache / "native" / "components").glob("*-*/"))
    return [place for place in places if not component_store.is_whole(place)]


def environments(project: Project) -> list[Path]:
    made = sorted((project.cache / "envs").glob(f"*/{environment.READY}"))
    return [ready.parent for ready in made if not environment.is_whole(ready.parent)]


def mend(project: Project) -> list[str]:
    """Put in order what can be, and drop what is made anew; what was done, line by line."""
    done = []
    with hold(project.cache / "locks" / "store.lock", "the object store"):
        bad = health.damaged(project.store)
        if bad:
            done += health.mend(project.store, bad)
    for path in answers(project):
        path.unlink(missing_ok=True)
        done.append(f"dropped {path}, which is found out anew")
    for folder in (*components(project), *environments(project)):
        shutil.rmtree(folder, ignore_errors=True)
        done.append(f"dropped {folder}, which is made anew")
    return done
