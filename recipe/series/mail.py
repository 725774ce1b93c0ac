# SPDX-License-Identifier: Apache-2.0
"""A patch as a mail: its fields, and what of its message another tool wouldn't take as it stands.

git am, git apply, GNU patch and quilt each find the diff, and git am its fields, in ways of their
own. A message that one of them cuts or changes is refused: they would make different commits of it.
"""

from __future__ import annotations

import email.header
import re
from collections.abc import Iterator

# Leading Re: and [..PATCH..], and any blanks but single ones, go even with --keep-non-patch.
SUBJECT = re.compile(r"(?:\[[^]]*\]\s?+)*(?:[rR][eE]:|[\s:]|\[[^]]*PATCH[^]]*\])")
BLANKS = re.compile(r"[\t\n\r]|  ")
# Before any other line of the body these are fields of the mail.
FIELD = re.compile(
    r"(?:(?i:from|subject|date):|\[PATCH\])\s|>From [0-9a-f]{40} Mon Sep 17 00:00:00 2001"
)
ENDS = re.compile(r"---\s*$|--- \S|diff -|Index: ")
NEXT_MAIL = re.compile(r"From .*\d.\d\d:\d\d *(?:9[1-9]|\d{3,})")
# GNU patch looks behind indentation, and behind an X.
DIFF = re.compile(r"[ \tX]*(?:@@ -\d|\*{15}|diff --git |\d[\d,]*[acd][\d,]*$)")


def mail_fields(mail: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    unfolded = re.sub(r"\n[ \t]+", " ", mail)
    for line in unfolded.split("\n"):
        name, colon, value = line.partition(": ")
        if colon:
            value = value.strip()  # a long first word stands on a line of its own
            decoded = str(email.header.make_header(email.header.decode_header(value)))
            fields[name] = unquoted(decoded) if name == "From" else decoded
    return fields


def unquoted(author: str) -> str:
    """``"J. \\"X\\" Y" <address>`` without the quotes that a name with a dot needs in a mail."""
    found = re.fullmatch(r'"(.*)"\s*(<[^<>]*>)\s*', author)
    return author if found is None else re.sub(r"\\(.)", r"\1", found[1]) + " " + found[2]


def misread(mail: str, subject: str, body: str) -> Iterator[tuple[int, str]]:
    """Line and reason of everything in the message that doesn't survive another tool."""
    number = mail.count("\n", 0, mail.find("\nSubject: ") + 1) + 1
    if "\n" in subject:
        yield number, "the subject has several lines: an empty one comes after the first"
    elif SUBJECT.match(subject) or BLANKS.search(subject):
        yield number, f"git am would change the subject {subject!r}: no Re:, [PATCH], double blanks"
    first = mail.count("\n") + 3
    lines = body.split("\n")
    for number, line in enumerate(lines, first):
        why = None
        if number == first and FIELD.match(line):
            why = "git am takes it for a field of the mail: let another line come first"
        elif ENDS.match(line):
            why = "git am ends the message here: indent it, or write the patch with --no-stat"
        elif NEXT_MAIL.match(line):
            why = "git am takes it for the next mail: indent it"
        elif DIFF.match(line):
            why = "git apply or GNU patch takes it for a part of the diff: put > before it"
        elif line != line.rstrip(" \t\r"):
            why = "git am takes the blanks at its end off"
        elif line == "" and (number == first or lines[number - first - 1] == ""):
            why = "git am takes the second of two blank lines off"
        if why:
            yield number, f"{line!r}: {why}"
