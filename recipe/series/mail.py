# SPDX-License-Identifier: Apache-2.0
"""A patch as a mail: its fields, and what of its message another tool wouldn't take as it stands.

git am, git apply, GNU patch and quilt each find the diff, and git am its fields, in ways of their
own. A message that one of them cuts or changes is refused: they would make different commits of it.
"""

from __future__ import annotations

import email.errors
import email.header
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

from recipe.objects.gate.names import escaped

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


FIELDS = ("From", "Date", "Subject")
# As git writes one; without a zone it would take the builder's, and another form another clock.
DATE = re.compile(
    r"(?:[A-Z][a-z]{2}, )?(\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d) ([+-])(\d\d)(\d\d)"
)
# What git takes off both ends of a name, and then it may be empty.
CRUD = " .,:;<>\"\\'"


def unreadable(mail: str, message: str) -> Iterator[tuple[int, str]]:
    """Line and reason of everything in the mail's header that makes no commit, or several."""
    lines = mail.split("\n")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        kind = name.title()
        if colon and kind in FIELDS:
            if kind in seen:
                yield number, f"{kind}: stands twice, first on line {seen[kind]}"
            seen[kind] = number
        elif kind == "Content-Transfer-Encoding" and value.strip().lower() not in ("7bit", "8bit"):
            yield number, f"git am would decode the patch ({value.strip()}): write it with 8bit"
        if why := unprintable(line):
            yield number, why
    for name in FIELDS:
        if f"\n{name}: " not in f"\n{mail}":
            yield 1, f"the mail header has no {name}: line"
    for number, line in enumerate(message.split("\n"), len(lines) + 2):
        if "\0" in line:
            yield number, "git can't hold a NUL in a message"
    for name, number in seen.items():
        if why := wrong_field(name, mail):
            yield number, why


def unprintable(line: str) -> str | None:
    odd = next((one for one in line if one != "\t" and unicodedata.category(one) == "Cc"), None)
    return None if odd is None else f"the mail header has a control character: {escaped(line)}"


def wrong_field(name: str, mail: str) -> str | None:
    try:
        value = decoded(name, written_fields(mail)[name])
    except (ValueError, LookupError, email.errors.MessageError) as error:
        return f"{name}: can't be decoded: {error}"
    if name == "Date":
        return wrong_date(value)
    if why := unprintable(value.replace("\n", "") if name == "Subject" else value):
        return f"{name}: {why}"
    if any(unicodedata.category(one) == "Cs" for one in value):
        return f"{name}: isn't UTF-8 when decoded"
    if name == "Subject" and not value.strip():
        return "Subject: is empty"
    if name == "From":
        author = re.fullmatch(r"([^<>\n]*)<[^<>\s]*>", value)
        if author is None or not author[1].strip(CRUD):
            return f"From: {escaped(value)} isn't a name and an address: Name <name@host>"
    return None


def wrong_date(value: str) -> str | None:
    form = "write it as: Sun, 22 Nov 2026 00:00:00 +0000"
    found = DATE.fullmatch(value)
    if found is None:
        return f"Date: {escaped(value)} isn't a date with a zone: {form}"
    zone = timedelta(hours=int(found[3]), minutes=int(found[4]))
    if zone > timedelta(hours=14) or int(found[4]) > 59:
        return f"Date: no place on earth has the zone of {escaped(value)}: {form}"
    try:
        local = datetime.strptime(found[1], "%d %b %Y %H:%M:%S")
        moment = local.replace(tzinfo=timezone(zone if found[2] == "+" else -zone))
        in_range = datetime(1970, 1, 1, tzinfo=UTC) <= moment < datetime(2100, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        in_range = False
    return None if in_range else f"Date: {escaped(value)} isn't a day from 1970 to 2099: {form}"


def mail_fields(mail: str) -> dict[str, str]:
    """The fields of a header that `unreadable` has nothing against, decoded."""
    return {name: decoded(name, value) for name, value in written_fields(mail).items()}


def written_fields(mail: str) -> dict[str, str]:
    """The fields as they stand, unfolded: a long first word stands on a line of its own."""
    lines = re.sub(r"\n[ \t]+", " ", mail).split("\n")
    split = (line.partition(": ") for line in lines)
    return {name: value.strip() for name, colon, value in split if colon}


def decoded(name: str, value: str) -> str:
    text = str(email.header.make_header(email.header.decode_header(value)))
    return unquoted(text) if name == "From" else text


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
