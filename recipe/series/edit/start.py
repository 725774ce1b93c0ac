# SPDX-License-Identifier: Apache-2.0
"""Start a patch: the tree it goes on, and a commit message with the trailers to fill in.

No overlay is laid there: its commit would stand between the series and the new patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipe.bases.releases import Base, Bases
from recipe.ground.errors import UsageError
from recipe.objects.git import Store
from recipe.series.patch import TOPIC, Patch
from recipe.series.topics import Series
from recipe.series.tree import Applied, apply_all, through, write_repository


@dataclass(frozen=True, kw_only=True)
class Started:
    """after: the patch that the new one goes on; None if it is the first. test: its test file."""

    applied: Applied
    after: str | None
    test: str


def start(
    store: Store,
    bases: Bases,
    base: Base,
    series: Series,
    source: str,
    *,
    topic: str,
    after: str | None,
    target: Path,
) -> Started:
    """The tree in `target`, a new folder, with the message's template set in its repository."""
    patches = through(series.patches, after)
    applied = apply_all(store, source, patches, ())
    test = f"tests/patched/test_{topic.replace('-', '_')}.py"
    write_repository(store, applied, target, base.tag, template(bases, base, topic, test))
    return Started(applied=applied, after=patches[-1].path if patches else None, test=test)


def check_topic(patches: tuple[Patch, ...], topic: str) -> None:
    if not TOPIC.fullmatch(topic):
        raise UsageError(
            f"{topic!r} is no name for a topic: use lower-case letters, digits and hyphens",
            next="python build.py new my-topic --tree DIR",
        )
    same = next((patch for patch in patches if patch.topic == topic), None)
    if same is not None:
        raise UsageError(
            f"the topic {topic} exists: patches/{same.path}",
            means="A topic's patch is changed in the tree that apply writes.",
            next="python build.py apply --tree DIR   # then: python build.py refresh --tree DIR",
        )


def template(bases: Bases, base: Base, topic: str, test: str) -> str:
    """What the message of a commit starts from; lines with # go when it is made."""
    release = ".".join(str(part) for part in base.version.release[:2])
    older = [one.tag for one in bases.releases if one.version < base.version]
    said, hint = [], []
    if older:
        # Every topic is resolved on every base, so something is said of these.
        said = [f"Not-Needed: <{release}"]
        hint = [
            f"# Older releases are pinned as well, {older[0]} to {older[-1]}. If they need it,",
            "# lower Bases to them and take Not-Needed out.",
        ]
    return "\n".join(
        [
            "",
            "",
            "# Above: a subject of one line. Here: why, and what would make the patch unnecessary.",
            "",
            f"Topic: {topic}",
            f"Bases: >={release}",
            *hint,
            "Origin: vendor",
            "Forwarded: no",
            *said,
            "# If it touches CMake or CUDA sources, whose compile it changes: Components: none",
            f"# Once there is a test that shows that it works: Tests: {test}",
            "Tests: none",
            "",
        ]
    )
