# SPDX-License-Identifier: Apache-2.0
"""One patch file: its mail header, its trailers and the upstream paths it touches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from recipe.ground.errors import ConfigError
from recipe.objects.gate.names import escaped, wrong_with
from recipe.series.carried import not_carried
from recipe.series.diff import outside_hunks, touched_paths, wrong_lines
from recipe.series.mail import FIELDS, mail_fields, misread, unreadable

TRAILER = re.compile(r"([A-Z][A-Za-z]*(?:-[A-Za-z]+)*): (.+)")
# What git and its users add of themselves: it is kept as it stands, and may stand again.
PEOPLE = re.compile(r"[A-Z][a-z]+(?:-[a-z]+)*-[Bb]y|Cc|Fixes|Link|Reviewed-on|Change-Id|See-also")
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
    changes. touched: upstream paths. origin, forwarded: as DEP-3 has them; forwarded names a pull
    request (vllm-project/vllm#40988), or is "no".
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
    origin: str
    forwarded: str
    content: bytes

    @property
    def upstream(self) -> str:
        return self.path.split("/", 1)[0]

    def line_of(self, trailer: str) -> int:
        """The line of a trailer in the file, or 1."""
        head, _ = split_diff(self.content)
        return head.count(b"\n", 0, head.rfind(f"\n{trailer}: ".encode()) + 1) + 1

    @property
    def pull_request(self) -> str | None:
        """The address of the pull request that the patch was offered as."""
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)#(\d{1,9})", self.forwarded)
        return f"https://github.com/{found[1]}/pull/{found[2]}" if found else None

    def native_paths(self) -> tuple[str, ...]:
        return tuple(path for path in self.touched if NATIVE.search(path))


def read_patch(root: Path, path: str) -> Patch:
    """Parse patches/`path`; ConfigError with file and line for whatever is wrong with it."""
    if (root / path).is_symlink() or not (root / path).is_file():
        raise malformed(path, 1, "it is no file of its own: the patch itself must stand there")
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
    check_carried_in(path, mail, message)
    for line, why in unreadable(mail, message):
        raise malformed(path, line, why)
    fields = mail_fields(mail)
    body = message.rstrip("\n").removesuffix("\n---").rstrip("\n")
    for line, why in misread(mail, fields["Subject"], body):
        raise malformed(path, line, why)
    trailers = read_trailers(path, text, body)
    for line, why in wrong_lines(content, diff_line):
        raise malformed(path, line, why)
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
        tests=read.tests(),
        touched=touched_paths(content, diff_line),
        origin=trailers["Origin"],
        forwarded=trailers["Forwarded"],
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
        if PEOPLE.fullmatch(name):
            continue
        if name not in KNOWN:
            raise malformed(path, number, f"unknown trailer {name}; known: {sorted(KNOWN)}")
        if name in trailers:
            raise malformed(path, number, f"{name} stands twice")
        trailers[name] = value.strip()
    if missing := [name for name in REQUIRED if name not in trailers]:
        are = "trailer {}: is" if len(missing) == 1 else "trailers {} are"
        why = f"the {are.format(', '.join(missing))} missing"
        raise malformed(path, text.count("\n"), why)
    return trailers


def check_carried_in(path: str, mail: str, body: str) -> None:
    """ConfigError with the one way in, for a diff or a mail that was never made for the series.

    Told one missing line after the other, a person would write by hand what git and `new` write.
    """
    fields = [name for name in FIELDS if f"\n{name}: " in f"\n{mail}"]
    ours = any(
        line.startswith(tuple(f"{name}: " for name in REQUIRED)) for line in body.split("\n")
    )
    if len(fields) == len(FIELDS) and ours:
        return
    if fields and ours:
        return  # made for it, and damaged: the line is named
    what = "a mail without the series' trailers" if fields else "a plain diff"
    raise ConfigError(
        f"patches/{path}:1: it is {what}: nothing says its topic and the releases it is for",
        means="Nothing was applied. Its header is written from a commit in a tree.",
        next=f"mv patches/{path} .., take its line out of series.txt if it has one, then: "
        f"python build.py new TOPIC --tree ../tree, git -C ../tree apply --index "
        f"$PWD/../{path.rsplit('/', 1)[-1]}, git -C ../tree commit, "
        "python build.py refresh --tree ../tree",
    )


@dataclass(frozen=True, kw_only=True)
class Trailers:
    """The trailers of one patch, read as what they stand for; errors name the line."""

    path: str
    text: str
    values: dict[str, str]

    def specifier(self, name: str) -> SpecifierSet | None:
        try:
            return SpecifierSet(self.number(name)) if name in self.values else None
        except InvalidSpecifier as error:
            raise self.bad(name, error) from None

    def version(self, name: str) -> Version | None:
        try:
            return Version(self.number(name)) if name in self.values else None
        except InvalidVersion as error:
            raise self.bad(name, error) from None

    def number(self, name: str) -> str:
        """The value, in which no number is longer than one that a release can have."""
        if re.search(r"\d{10}", self.values[name]):
            raise self.bad(name, "no release has a number of ten digits")
        return self.values[name]

    def tests(self) -> tuple[str, ...]:
        """``none``, or files of this repository."""
        found = names(self.values["Tests"])
        if found == ("none",):
            return ()
        for test in found:
            if why := wrong_with(test):
                raise self.bad("Tests", f"{escaped(test)} {why}")
        return found

    def drop_when(self) -> Version | None:
        """``upstream >= 0.24``, the one condition there is."""
        if "Drop-When" not in self.values:
            return None
        found = re.fullmatch(r"upstream >= (\d+(?:\.\d+)*(?:\.post\d+)?)", self.number("Drop-When"))
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


def line_of(text: str, needle: str) -> int:
    """The last line that begins so: the trailers are the last paragraph."""
    return text.count("\n", 0, max(text.rfind("\n" + needle), 0)) + 2


def malformed(path: str, line: int, why: str) -> ConfigError:
    return ConfigError(
        f"patches/{path}:{line}: {why}",
        means="Nothing was applied.",
        next=f"mend the header of patches/{path} (docs/concepts/series.md has the trailers)",
    )
