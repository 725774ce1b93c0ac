# SPDX-License-Identifier: Apache-2.0
"""Whether a diff holds all that it names: a binary that was left out applies as an empty file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# An empty file has no hunk. Its blob id, in both of git's hashes:
EMPTY = (
    b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    b"473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
)
INDEX = re.compile(rb"index ([0-9a-f]+)\.\.([0-9a-f]+)")
CONTENT = re.compile(rb"@@ -\d|(?:literal|delta) \d+$")
OTHER = re.compile(rb"(?:old|new|deleted file|new file) mode |rename |copy ")


def not_carried(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str]]:
    """Line and reason for every file whose change isn't there.

    lines: the numbered lines of the diff, without the content of hunks.
    """
    start = 0
    missing = False
    for number, line in lines:
        index = INDEX.match(line)
        if line.startswith(b"diff --git "):
            if missing:
                yield start, LOST
            start, missing = number, True
        elif line.startswith(b"Binary files "):
            yield number, "a binary differs, and the patch doesn't hold it: write it with --binary"
            missing = False
        elif index:
            missing = not all(is_empty(blob) for blob in index.groups())
        elif OTHER.match(line):
            # No index line: the content is the same.
            missing = missing and b"file mode" in line
        elif CONTENT.match(line):
            missing = False
    if missing:
        yield start, LOST


LOST = "neither a hunk nor a GIT binary patch follows: the change isn't in the patch"


def is_empty(blob: bytes) -> bool:
    return set(blob) == {ord("0")} or any(empty.startswith(blob) for empty in EMPTY)
