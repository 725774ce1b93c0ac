# SPDX-License-Identifier: Apache-2.0
"""The one gate for names, modes and links: whatever enters a tree or a wheel goes through it.

A name that is harmless in an archive may be something else once it is a path: a command to git's
fast-import, the configuration of a repository, another file on a disk that folds letters. So a name
is refused if any file system or git would take it for more than a file of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

FILES = ("100644", "100755")
LINK = "120000"
SUBMODULE = "160000"
# Bounds of one tree. v0.33.0, the largest pinned one, has 8,522 files of 137 MB.
MOST_FILES = 200_000
LARGEST_FILE = 256 << 20
LARGEST_TREE = 2 << 30
LONGEST_PART = 255  # of a name, on every file system in use
LONGEST_PATH = 1024
DEEPEST = 64
MOST_HOPS = 40  # what Linux follows before it gives up
# Characters that no one sees, and on some disks no name has: HFS+, and ext4 and f2fs with casefold,
# leave out what Unicode calls default ignorable. Those of the classes Cc and Cf are refused anyway.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Controls, what turns text around, halves of surrogates (bytes that aren't UTF-8), line ends.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# NTFS gives .git the short name git~1, drops dots and blanks at an end, and has streams behind ":".
GIT = re.compile(r"(?:\.git|git~\d+)[. ]*(?::.*)?")
# git reads these two through no link; short names are NTFS's again.
MODULES = re.compile(r"(?:\.gitmodules|gitmod~\d+|gi7eba~\d+)[. ]*(?::.*)?")


def escaped(name: str | bytes) -> str:
    """The name in quotes for a message, on one line, whatever is in it; cut where it is long."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    shown = "".join(shown_letter(letter) for letter in text[:200])
    return f"'{shown}{'...' if len(text) > 200 else ''}'"


def shown_letter(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if letter == "'" or (letter.isprintable() and letter != "\\"):
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def folded(path: str) -> str:
    """What a file system that folds letters makes of a path: two alike are one file there."""
    if path.isascii():
        text = path.lower()
    else:
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", path)).casefold()
        text = INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if ". " in text or "./" in text or " /" in text or text.endswith((".", " ")):
        text = "/".join(part.rstrip(". ") for part in text.split("/"))  # as NTFS does
    return text


def wrong_with(path: str) -> str | None:
    """Why no file of a tree may have this path, below the tree's root; None if one may."""
    parts = path.split("/")
    if why := wrong_letters(path):
        return why
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute, so it leaves the tree"
    if ".." in parts:
        return "leaves the tree"
    if "" in parts or "." in parts:
        return "has an empty part"
    if len(parts) > DEEPEST or len(path.encode()) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} bytes or {DEEPEST} folders"
    if any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"has a part of more than {LONGEST_PART} bytes, which no disk holds"
    if any(is_git(part) for part in parts):
        return "leaves the tree: git and some disks take it for a repository's own .git"
    if not all(folded(part).strip("/") for part in parts) or "/" in "".join(map(folded, parts)):
        return "leaves the tree on disks that fold letters"
    return None


def wrong_letters(text: str) -> str | None:
    if text.isascii() and text.isprintable() and "\\" not in text:
        return None
    for letter in text:
        if "\udc80" <= letter <= "\udcff":
            return "isn't UTF-8"
        if unicodedata.category(letter) in UNSEEN:
            return f"has a control character ({shown_letter(letter)}), which git can't hold safely"
        if letter == "\\":
            return "has a backslash, which git can't hold everywhere"
    return None


def is_git(part: str) -> bool:
    return GIT.fullmatch(folded(part)) is not None


def wrong_file_name(name: str) -> str | None:
    """Why this can't be the name of one file, of an index or a cache; None if it can."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*", name):
        return "isn't a plain file name"
    return wrong_with(name)


def wrong_target(target: str) -> str | None:
    """Why no link may point there, whatever else is in the tree; None if one may."""
    if target == "":
        return "is a link to nothing"
    if why := wrong_letters(target):
        return f"is a link to a name that {why}"
    if target.startswith("/") or re.match(r"[A-Za-z]:", target):
        return f"is a link out of the tree, to {escaped(target)}"
    if len(target.encode()) > LONGEST_PATH:
        return f"is a link of more than {LONGEST_PATH} bytes"
    if any(is_git(part) for part in target.split("/")):
        return f"is a link out of the tree, into a repository's own .git: {escaped(target)}"
    return None


def wrong_way(path: str, links: dict[str, str]) -> str | None:
    """Why a link of a tree leads nowhere allowed, through every other link on its way.

    links: target of each link by its folded path. A target that isn't there is allowed: archives
    leave out files of a repository.
    """
    here = path.split("/")[:-1]
    todo = links[folded(path)].split("/")[::-1]
    hops = 0
    while todo:
        part = todo.pop()
        if part == "..":
            if not here:
                return f"is a link out of the tree, to {escaped(links[folded(path)])}"
            here.pop()
        elif part not in ("", "."):
            here.append(part)
            further = links.get(folded("/".join(here)))
            if further is not None:
                hops += 1
                if hops > MOST_HOPS:
                    return "is a link that leads round in a circle, or through too many others"
                here.pop()
                todo += further.split("/")[::-1]
    return None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file for a tree: git's mode and the bytes (for a link, where it points)."""

    path: str
    mode: str
    content: bytes


@dataclass(kw_only=True)
class Gate:
    """One tree on its way in: `admit` each entry, then `settle` what only all of them show.

    refuse: makes the error of an entry's name, escaped, and of what is wrong with it.
    """

    refuse: Callable[[str, str], Exception]
    files: dict[str, str] = field(default_factory=dict)  # path by folded path
    folders: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # target by folded path
    size: int = 0

    def admit(self, path: str, mode: str, size: int, target: bytes | None = None) -> None:
        """Let a file in, or a link with its target; the gate's error if it may not be."""
        why = wrong_with(path) or self.wrong_mode(path, mode, target)
        if why is None and (size < 0 or size > LARGEST_FILE):
            why = f"has {size} bytes, and a file of a source has 0 to {LARGEST_FILE}"
        self.size += max(size, 0)
        if why is None and (len(self.files) >= MOST_FILES or self.size > LARGEST_TREE):
            why = f"is past the size or number allowed: {MOST_FILES} files, {LARGEST_TREE} bytes"
        if why is None:
            why = self.wrong_place(path)
        if why is not None:
            raise self.refuse(escaped(path), why)
        self.files[folded(path)] = path
        if target is not None:
            self.links[folded(path)] = target.decode()

    def through(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries, each let in, and all of them settled before the last is given."""
        last: Entry | None = None
        for entry in entries:
            target = entry.content if entry.mode == LINK else None
            self.admit(entry.path, entry.mode, len(entry.content), target)
            if last is not None:
                yield last
            last = entry
        self.settle()
        if last is not None:
            yield last

    def admit_folder(self, path: str) -> None:
        """Let in a folder that an archive names: it is kept for what is in it only."""
        why = wrong_with(path) or self.enter(path)
        if why is not None:
            raise self.refuse(escaped(path), why)

    def settle(self) -> None:
        """The gate's error if a link leaves the tree by way of others."""
        for key in self.links:
            why = wrong_way(self.files[key], self.links)
            if why is not None:
                raise self.refuse(escaped(self.files[key]), why)

    def wrong_mode(self, path: str, mode: str, target: bytes | None) -> str | None:
        if mode == LINK and target is not None:
            if MODULES.fullmatch(folded(path.rsplit("/", 1)[-1])):
                return "is a link where git wants a file"
            return wrong_target(target.decode("utf-8", "surrogateescape"))
        if mode not in FILES or target is not None:
            return f"has mode {mode}; a file has {' or '.join(FILES)}"
        return None

    def wrong_place(self, path: str) -> str | None:
        """Why a path can't be beside those that came before; its folders are entered."""
        key = folded(path)
        if key in self.files:
            return same(path, self.files[key])
        if key in self.folders:
            return f"is a file, and {escaped(self.folders[key])} is a folder"
        above = path.rpartition("/")[0]
        return self.enter(above) if above else None

    def enter(self, folder: str) -> str | None:
        parts = folder.split("/")
        for end in range(len(parts), 0, -1):
            name = "/".join(parts[:end])
            known = self.folders.get(folded(name))
            if known == name:
                return None  # and so are all above it
            if known is not None:
                return f"is in {escaped(name)}, which {same(name, known)}"
            if folded(name) in self.files:
                return f"is below {escaped(self.files[folded(name)])}, which is no folder"
            self.folders[folded(name)] = name
        return None


def same(path: str, other: str) -> str:
    if path == other:
        return "stands twice"
    return f"is the same as {escaped(other)} on a disk that folds letters"
