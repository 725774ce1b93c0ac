# SPDX-License-Identifier: Apache-2.0
"""One patch file: its mail header, its trailers and the upstream paths it touches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from recipe.ground.errors import ConfigError
from recipe.objects.hunks import named_path
from recipe.series.carried import not_carried
from recipe.series.mail import mail_fields, misread

TRAILER = re.compile(r"([A-Z][A-Za-z]*(?:-[A-Z][A-Za-z]*)*): (.+)")
# In the order in which they are written.
KNOWN = (
    "Topic",
    "Bases",
    "Origin",
    "Forwarded",
    "Applied-Upstream",
    "Not-Needed",
    "Drop-When",
    "Components",
    "Tests",
)
REQUIRED = ("Topic", "Bases", "Origin", "Forwarded", "Tests")
TOPIC = re.compile(r"[a-z0-9][a-z0-9-]*")
# A change to these reaches a wheel only through a compiler.
NATIVE = re.compile(r"(^|/)CMakeLists\.txt$|\.cmake$|^csrc/|^rust/|\.(cu|cuh|cpp|cc|c|h|hpp|inl)$")


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A patch file and what its header says.

    path: under patches/, as series.txt writes it. upstream: the tree it is for (vllm, deepgemm).
    bases: releases this file applies on. applied_upstream: first release that has the topic.
    not_needed: releases without the thing that the topic mends. drop_when: the patch can go once
    the oldest pinned base is this release. components: compiled extensions whose compile the patch
    changes. touched: upstream paths.
    """

    path: str
    subject: str
    author: str
    date: str
    message: str
    topic: str
    bases: SpecifierSet
    applied_upstream: Version | None
    not_needed: SpecifierSet | None
    drop_when: Version | None
    components: tuple[str, ...]
    tests: tuple[str, ...]
    touched: tuple[str, ...]
    content: bytes

    @property
    def upstream(self) -> str:
        return self.path.split("/", 1)[0]

    def line_of(self, trailer: str) -> int:
        """The line of a trailer in the file, or 1."""
        head, _ = split_diff(self.content)
        return head.count(b"\n", 0, head.rfind(f"\n{trailer}: ".encode()) + 1) + 1

    def native_paths(self) -> tuple[str, ...]:
        return tuple(path for path in self.touched if NATIVE.search(path))


def read_patch(root: Path, path: str) -> Patch:
    """Parse patches/`path`; ConfigError with file and line for whatever is wrong with it."""
    return parse_patch(path, (root / path).read_bytes())


def parse_patch(path: str, content: bytes) -> Patch:
    """The same for the content that patches/`path` has or would have."""
    try:
        # The diff may hold any bytes; only the header must be text.
        head, diff_line = split_diff(content)
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise malformed(path, line, f"the header is not UTF-8: {error.reason}") from None
    if diff_line == 0:
        raise malformed(path, 1, "there is no 'diff --git' line, so it changes nothing")
    mail, _, message = text.partition("\n\n")
    fields = mail_fields(mail)
    for name in ("From", "Date", "Subject"):
        if name not in fields:
            raise malformed(path, 1, f"the mail header has no {name}: line")
    body = message.rstrip("\n").removesuffix("\n---").rstrip("\n")
    for line, why in misread(mail, fields["Subject"], body):
        raise malformed(path, line, why)
    trailers = read_trailers(path, text, body)
    touched = touched_paths(path, content, diff_line)
    for line, why in not_carried(outside_hunks(content, diff_line)):
        raise malformed(path, line, why)
    read = Trailers(path=path, text=text, values=trailers)
    patch = Patch(
        path=path,
        subject=fields["Subject"],
        author=fields["From"],
        date=fields["Date"],
        message=f"{fields['Subject']}\n\n{body}\n",
        topic=read.topic(),
        bases=read.specifier("Bases") or SpecifierSet(),
        applied_upstream=read.version("Applied-Upstream"),
        not_needed=read.specifier("Not-Needed"),
        drop_when=read.drop_when(),
        components=names(trailers.get("Components", "none").removeprefix("none")),
        tests=names(trailers["Tests"]),
        touched=touched,
        content=content,
    )
    if patch.native_paths() and "Components" not in trailers:
        raise malformed(
            path,
            patch.line_of("Topic"),
            f"it touches {patch.native_paths()[0]}, which only a compile carries, "
            "and has no Components: trailer (none, if no component's compile changes)",
        )
    return patch


def split_diff(content: bytes) -> tuple[bytes, int]:
    """What is before the first ``diff --git`` line, and that line's number (0: there is none)."""
    found = re.search(rb"^diff --git ", content, re.MULTILINE)
    if found is None:
        return content, 0
    return content[: found.start()], content.count(b"\n", 0, found.start()) + 1


def read_trailers(path: str, text: str, body: str) -> dict[str, str]:
    """The last paragraph of the message, every line of which must be ``Name: value``."""
    trailers: dict[str, str] = {}
    paragraph = body.rsplit("\n\n", 1)[-1]
    first = text.count("\n", 0, text.rfind(paragraph)) + 1
    for number, line in enumerate(paragraph.split("\n"), first):
        match = TRAILER.fullmatch(line)
        if match is None:
            raise malformed(path, number, f"not a trailer (Name: value): {line!r}")
        name, value = match.groups()
        if name not in KNOWN:
            raise malformed(path, number, f"unknown trailer {name}; known: {sorted(KNOWN)}")
        if name in trailers:
            raise malformed(path, number, f"{name} stands twice")
        trailers[name] = value.strip()
    for name in REQUIRED:
        if name not in trailers:
            raise malformed(path, text.count("\n"), f"the trailer {name}: is missing")
    return trailers


@dataclass(frozen=True, kw_only=True)
class Trailers:
    """The trailers of one patch, read as what they stand for; errors name the line."""

    path: str
    text: str
    values: dict[str, str]

    def specifier(self, name: str) -> SpecifierSet | None:
        try:
            return SpecifierSet(self.values[name]) if name in self.values else None
        except InvalidSpecifier as error:
            raise self.bad(name, error) from None

    def version(self, name: str) -> Version | None:
        try:
            return Version(self.values[name]) if name in self.values else None
        except InvalidVersion as error:
            raise self.bad(name, error) from None

    def drop_when(self) -> Version | None:
        """``upstream >= 0.24``, the one condition there is."""
        if "Drop-When" not in self.values:
            return None
        found = re.fullmatch(r"upstream >= (\d+(?:\.\d+)*(?:\.post\d+)?)", self.values["Drop-When"])
        if found is None:
            raise self.bad("Drop-When", "write it as: upstream >= 0.24")
        return Version(found[1])

    def topic(self) -> str:
        if not TOPIC.fullmatch(self.values["Topic"]):
            raise self.bad("Topic", "use lower-case letters, digits and hyphens")
        return self.values["Topic"]

    def bad(self, name: str, why: object) -> ConfigError:
        return malformed(self.path, line_of(self.text, f"{name}: "), f"{name}: {why}")


def names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def touched_paths(path: str, content: bytes, first_line: int) -> tuple[str, ...]:
    """Upstream paths named by the diff; a path that leaves the tree is an error."""
    found: list[str] = []
    for number, raw in outside_hunks(content, first_line):
        text = named_path(raw)
        if text is None:
            continue
        if not stays_inside(text):
            raise malformed(path, number, f"the path {text!r} leaves the tree")
        found.append(text)
    return tuple(dict.fromkeys(found))


def outside_hunks(content: bytes, first_line: int) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of the diff from `first_line` on, without what is in its hunks."""
    in_hunk = 0
    # Not splitlines(): a carriage return inside a line is content.
    for number, raw in enumerate(content.split(b"\n")[first_line - 1 :], first_line):
        if in_hunk > 0 and raw[:1] in (b" ", b"-", b"+", b""):
            # A removed line may look like a file header ("--- a/x"): count hunk lines instead.
            in_hunk -= 2 if raw[:1] in (b" ", b"") else 1
            continue
        hunk = re.match(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", raw)
        if hunk:
            in_hunk = sum(1 if count is None else int(count) for count in hunk.groups())
        yield number, raw


def stays_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and not {"..", ".git"} & set(parts)


def line_of(text: str, needle: str) -> int:
    """The last line that begins so: the trailers are the last paragraph."""
    return text.count("\n", 0, max(text.rfind("\n" + needle), 0)) + 2


def malformed(path: str, line: int, why: str) -> ConfigError:
    return ConfigError(
        f"patches/{path}:{line}: {why}",
        means="Nothing was applied.",
        next=f"mend the header of patches/{path} (docs/concepts/series.md has the trailers)",
    )
