# SPDX-License-Identifier: Apache-2.0
"""What becomes of an error: an exit code, what happened, what it means, what to type next.

An error that nobody foresaw is put into a report file, without secrets, for whoever mends it.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recipe.ground.errors import INTERRUPTED, MachineError, RecipeError, UsageError
from recipe.ground.secret import HIDDEN, hidden

UNFORESEEN = RecipeError.exit_code
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE|_KEY\b", re.IGNORECASE)
# What of the environment decides how the recipe runs.
TELLING = ("SM12X_", "CUDA", "CC", "CXX", "LC_", "LANG", "XDG_CACHE_HOME", "PIP_INDEX", "TMPDIR")


@dataclass(frozen=True, kw_only=True)
class Told:
    """One error as a person and a program are told of it."""

    exit_code: int
    what: str
    means: str = ""
    next: str = ""

    @property
    def text(self) -> str:
        return str(RecipeError(self.what, means=self.means, next=self.next))


def explained(error: BaseException, places: Mapping[str, Path]) -> Told | None:
    """What is known of an error; None for one that nobody foresaw.

    places: the folders that were named, by what names another one (``--out DIR``).
    """
    match error:
        case RecipeError():
            return Told(
                exit_code=error.exit_code, what=error.what, means=error.means, next=error.next
            )
        case KeyboardInterrupt():
            return Told(
                exit_code=INTERRUPTED,
                what="interrupted; the next run goes on from what is finished",
            )
        case MemoryError():
            return Told(
                exit_code=MachineError.exit_code,
                what="memory ran out",
                means="What was finished is kept.",
                next="free some memory, or give this process more (ulimit -v), and run it again",
            )
        case OSError():
            return explained_system(error, places)
        case UnicodeDecodeError():
            return Told(
                exit_code=UsageError.exit_code,
                what=f"a file isn't UTF-8: byte {error.object[error.start]:#04x} at offset "
                f"{error.start}, after {error.object[max(0, error.start - 40) : error.start]!r}",
                means="Patches, the series, bases.toml and the overlay are text in UTF-8.",
                next="git status   # which of them was changed",
            )
        case RecursionError():
            return Told(
                exit_code=UsageError.exit_code,
                what="something that was read is nested more deeply than can be followed",
                means="Folders or links within one another, or a damaged file.",
                next="look at what was named last; python build.py doctor",
            )
    return None


def explained_system(error: OSError, places: Mapping[str, Path]) -> Told | None:
    """What the system refused, and how to get around it."""
    name = "" if error.filename is None else os.fsdecode(error.filename)
    number = error.errno
    instead = another(name, places)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return Told(
            exit_code=MachineError.exit_code,
            what=f"no room left on the disk{f': {name}' if name else ''}",
            means="What was finished is kept.",
            next=f"free some space, or name a larger disk: {instead or CACHE_NEXT}",
        )
    if number == errno.ENAMETOOLONG:
        return Told(
            exit_code=UsageError.exit_code,
            what=f"the name is too long for this disk: {name[:80]}...",
            next=instead or "name a shorter one",
        )
    if number is None or number not in REFUSALS:
        return None
    means = REFUSALS[number]
    if number == errno.EACCES and no_programs(name):
        means = "Its disk is mounted noexec, so no program on it can be started."
    return Told(
        exit_code=MachineError.exit_code,
        what=f"{error.strerror or os.strerror(number)}: {name or 'a file without a name'}",
        means=means,
        next=instead or f"ls -ld {shlex.quote(name or '.')}   # mend that, and run it again",
    )


CACHE_NEXT = "SM12X_CACHE=DIR python build.py ..."
REFUSALS = {
    errno.EROFS: "That disk can only be read.",
    errno.EACCES: "This user may not do that there.",
    errno.EPERM: "This user may not do that there.",
    errno.ENOENT: "It isn't there, or a folder on the way to it isn't.",
    errno.ENOTDIR: "Something on the way to it is a file, not a folder.",
    errno.EISDIR: "A folder stands where a file was wanted.",
    errno.EEXIST: "Something of that name is there already.",
    errno.ENOTEMPTY: "The folder isn't empty; another program may be writing to it.",
    errno.ELOOP: "It is a link where none is followed, or links lead in a circle.",
    errno.EMFILE: "Too many files are open at once (ulimit -n).",
    errno.ENFILE: "This machine has too many files open.",
    errno.ENOMEM: "Memory ran out.",
    errno.EAGAIN: "The system has no process left for it (ulimit -u).",
    errno.ENOEXEC: "It isn't a program for this machine.",
    errno.ETXTBSY: "The program is being written to.",
    errno.EIO: "The disk has a fault there.",
    errno.ESTALE: "The network disk has lost it.",
    errno.EXDEV: "It would have to be moved to another disk.",
    errno.EINVAL: "The system doesn't take that there.",
    errno.ENODEV: "There is no such device.",
    errno.ENXIO: "It is a device or a pipe that nobody serves.",
    errno.EOPNOTSUPP: "That disk can't do it.",
    errno.EBUSY: "Another program holds it.",
    errno.EBADF: "Its other end was closed.",
    errno.E2BIG: "The command is too long for this system.",
    errno.EFBIG: "The file would be larger than is allowed (ulimit -f).",
}


def another(name: str, places: Mapping[str, Path]) -> str:
    """How to name another folder than the one in which `name` lies; the innermost counts."""
    found = [
        (len(place.parts), way)
        for way, place in places.items()
        if name and Path(name).absolute().is_relative_to(place)
    ]
    return f"name another one: {max(found)[1]}" if found else ""


def no_programs(name: str) -> bool:
    try:
        return bool(os.statvfs(name).f_flag & os.ST_NOEXEC)
    except (OSError, ValueError):
        return False


def unforeseen(error: BaseException, arguments: Sequence[str], folders: Sequence[Path]) -> Told:
    """Say so, and write the report into the first of the folders that takes it."""
    kind = type(error).__name__
    said = " ".join(hidden(str(error)).split())[:300]
    place = write_report(report(error, arguments), folders)
    return Told(
        exit_code=UNFORESEEN,
        what=f"nobody foresaw this: {kind}{f': {said}' if said else ''}",
        means="That is a fault of the recipe. What was finished before is kept.",
        next=f"report it with the file {place} (it holds no secrets that the recipe knows of)"
        if place
        else "report it with the lines above; no folder could be written for a report file",
    )


def report(error: BaseException, arguments: Sequence[str]) -> str:
    """The text of a report: where it went wrong, on what machine, and nothing that is secret."""
    lines = traceback.format_exception(error)
    told = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(TELLING) and not SECRET_NAME.search(name)
    }
    text = "\n".join(
        [
            "A report of build.py, to be attached where you report the fault.",
            "",
            f"command: python build.py {shlex.join(arguments)}",
            f"exit code: {UNFORESEEN}",
            f"python: {sys.version.split()[0]}; {platform.platform()}",
            *(f"{name}={value}" for name, value in told.items()),
            "",
            *"".join(lines).splitlines(),
            "",
        ]
    )
    return without_secrets(text, os.environ)


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text without credentials in addresses and without what secret variables hold."""
    text = hidden(text)
    secret = (value for name, value in environment.items() if SECRET_NAME.search(name))
    for value in sorted((v for v in secret if len(v) >= 6), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def write_report(text: str, folders: Sequence[Path]) -> Path | None:
    """Where the report was written; None where no folder takes it."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for folder in (*folders, Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(prefix=f"report-{stamp}-", suffix=".txt", dir=folder)
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return Path(name)
    return None
