# SPDX-License-Identifier: Apache-2.0
"""What git is told, so that it answers the same for everybody: settings, identity, attributes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# The committer of every commit we make: fixed, so that the same input gives the same commit id.
IDENTITY = ("vllm-sm12x", "recipe@vllm-sm12x.example")
COMMITTER = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in zip(("NAME", "EMAIL"), IDENTITY, strict=True)
}
EPOCH = "1767225600 +0000"  # 2026-01-01, for commits that have no date of their own

# These stand above the configuration of a repository. git runs what the first two name, and reads
# the others in the user's own folder where nothing names them.
CONFIG = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.excludesFile": os.devnull,
    "core.attributesFile": os.devnull,
    "protocol.ext.allow": "never",
    "gc.auto": "0",
}


def configured(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables that give git these settings; no command line shows them."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return found


# The user's configuration must not change what is imported or applied, nor a time zone what a date
# without one means.
ISOLATED = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    "TZ": "UTC0",
    **configured(CONFIG),
}

# What tar would take for options of its own.
TAR: dict[str, str | None] = dict.fromkeys(("TAR_OPTIONS", "TAPE", "POSIXLY_CORRECT"))

# Nor may attributes, the user's or those of a tree: what is written is what the commit holds. A
# person's own git works in these trees as well, and -text is what keeps its core.autocrlf out.
ATTRIBUTES = (
    "* -text !eol !ident !filter !working-tree-encoding !export-ignore !export-subst !diff "
    "!whitespace !merge\n"
)


def ignore_attributes(repository: Path) -> None:
    """Have a repository write and take files as they are, whatever attributes say of them."""
    attributes = repository / "info" / "attributes"
    if not attributes.exists() or attributes.read_text(encoding="utf-8") != ATTRIBUTES:
        attributes.parent.mkdir(exist_ok=True)
        attributes.write_text(ATTRIBUTES, encoding="utf-8")
