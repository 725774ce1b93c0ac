# SPDX-License-Identifier: Apache-2.0
"""The diff of a patch, line by line: where its hunks are, and what it does that none may.

git apply, GNU patch and this recipe read a diff each in its own way. What one of them would take
for something else is refused: a line in no hunk, a count that doesn't fit, a mode that isn't a
file's, a path that is more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from recipe.objects.gate.names import FILES, LARGEST_FILE, escaped, wrong_with
from recipe.objects.hunks import RANGE, named_path

MODE = re.compile(rb"(?:old|new|deleted file|new file) mode(.*)", re.DOTALL)
INDEX = re.compile(rb"index [0-9a-f]{4,64}\.\.[0-9a-f]{4,64}(?: (.*))?", re.DOTALL)
BINARY = re.compile(rb"(?:literal|delta) (\d{1,10})")
# What else stands in a diff outside its hunks; base 85 is what git writes of a binary.
OTHER = re.compile(
    rb"diff --git .+|(?:---|\+\+\+) .+|(?:dis)?similarity index \d{1,3}%"
    rb"|(?:rename|copy) (?:from|to) .+|Binary files .+ differ|GIT binary patch"
    rb"|[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{5,}|\\ No newline at end of file|",
    re.DOTALL,
)
SIGNATURE = b"-- "
# Before its name a line of a diff says what it is; then a tab may follow, and a date.
NAMED = re.compile(rb"(?:diff --git|---|\+\+\+|(?:rename|copy) (?:from|to)) ")


def outside_hunks(content: bytes, first_line: int) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of the diff from `first_line` on, without what is in its hunks."""
    return ((number, line) for number, line, cut in scanned(content, first_line) if not cut)


def scanned(content: bytes, first_line: int) -> Iterator[tuple[int, bytes, str]]:
    """The same, and with a reason each place where a hunk isn't what its header counts."""
    old = new = 0
    # Not splitlines(): a carriage return inside a line is content.
    lines = content.split(b"\n")[first_line - 1 :]
    if lines[-1] == b"":
        lines.pop()
    for number, raw in enumerate(lines, first_line):
        sign = raw[:1] or b" "
        if old + new > 0 and sign != b"\\":
            # A removed line may look like a file header ("--- a/x"): count hunk lines instead.
            old -= sign in (b" ", b"-")
            new -= sign in (b" ", b"+")
            if sign in (b" ", b"-", b"+") and old >= 0 and new >= 0:
                continue
            yield number, raw, "the hunk above has other lines than its header counts"
            old = new = 0
        found = RANGE.match(raw)
        if found:
            old, new = (1 if count is None else int(count) for count in found.group(2, 4))
        yield number, raw, ""
    if old + new > 0:
        yield first_line + len(lines) - 1, b"", "the last hunk is cut off"


def wrong_lines(content: bytes, first_line: int) -> Iterator[tuple[int, str]]:
    """Line and reason for everything in the diff that no patch of the series may have."""
    ended = False
    for number, line, cut in scanned(content, first_line):
        if cut:
            yield number, cut
        elif line == SIGNATURE:
            ended = True  # lint says what git's version is doing there
        elif ended and line and not re.fullmatch(rb"[\w.() -]{1,80}", line):
            yield number, f"something follows the end of the diff: {escaped(line)}"
        elif not ended and (why := wrong_line(line)):
            yield number, why


def wrong_line(line: bytes) -> str | None:
    if line.startswith(b"@@"):
        return None if RANGE.match(line) else f"a hunk's header can't be read: {escaped(line)}"
    if found := MODE.fullmatch(line):
        return wrong_mode(found[1].removeprefix(b" "))
    if found := INDEX.fullmatch(line):
        return None if found[1] is None else wrong_mode(found[1])
    if found := BINARY.fullmatch(line):
        return f"a binary of {int(found[1])} bytes" if int(found[1]) > LARGEST_FILE else None
    if not OTHER.fullmatch(line):
        return f"a line that is in no hunk and in no header of a diff: {escaped(line)}"
    if NAMED.match(line):
        path = named_path(line)
        why = None if path is None else wrong_with(path)
        return f"the path {escaped(path or '')} {why}" if why else None
    return None


def wrong_mode(mode: bytes) -> str | None:
    if mode.decode("ascii", "replace") in FILES:
        return None
    return (
        f"mode {escaped(mode)}: a patch makes files, {' or '.join(FILES)}, no links or submodules"
    )


def touched_paths(content: bytes, first_line: int) -> tuple[str, ...]:
    """Upstream paths named by a diff that `wrong_lines` has nothing against."""
    named = (named_path(line) for _, line in outside_hunks(content, first_line))
    return tuple(dict.fromkeys(path for path in named if path is not None))
