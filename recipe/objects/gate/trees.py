# SPDX-License-Identifier: Apache-2.0
"""Look through a tree of the store as through an archive: git lets in more than a disk can hold."""

from __future__ import annotations

import os
from collections.abc import Callable

from recipe.ground import run
from recipe.objects.gate.names import LINK, LONGEST_PATH, SUBMODULE, Gate
from recipe.objects.git import Store


def check_tree(
    store: Store, commit: str, refuse: Callable[[str, str], Exception]
) -> tuple[str, ...]:
    """The submodules of a commit's tree, which the store doesn't hold; `refuse`'s error for a name,
    mode or link that no tree may have."""
    gate = Gate(refuse=refuse)
    submodules = []
    for row in store.git("ls-tree", "-r", "-z", "-l", "--full-tree", commit).split(b"\0")[:-1]:
        head, _, raw = row.partition(b"\t")
        path = os.fsdecode(raw)
        with run.understood("git ls-tree"):
            mode, _, blob, size = head.decode().split()
            count = 0 if mode == SUBMODULE else int(size)
        if mode == SUBMODULE:
            gate.admit_folder(path)
            submodules.append(path)
            continue
        link = mode == LINK and count <= LONGEST_PATH
        target = store.git("cat-file", "blob", blob) if link else None
        gate.admit(path, mode, count, target)
    gate.settle()
    return tuple(submodules)
