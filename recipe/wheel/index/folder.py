# SPDX-License-Identifier: Apache-2.0
"""The folder of an index: wheels come in whole, and a page follows when all that it lists is there.

files/ has the wheels and their metadata, simple/PROJECT/ the two pages of a project, simple/ those
of the index. A page is replaced in one step, after the wheels it names: a reader sees the old page
or the new one, and a run that was killed leaves at most a wheel that the next one lists.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename

from recipe.ground.errors import AuditError, UsageError
from recipe.ground.lock import hold_folder
from recipe.ground.log import say
from recipe.ground.scratch import beside, check_writable, usable, write_whole
from recipe.objects.gate.names import Gate, escaped
from recipe.wheel.index import pages
from recipe.wheel.index.entry import Entry, entry_of, refused

OURS = {"files", "simple"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """What an index lists after a run, and the names of the wheels that are new in it."""

    entries: tuple[Entry, ...]
    added: tuple[str, ...]

    @property
    def projects(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.project, []).append(entry)
        return found


def publish(folder: Path, wheels: Sequence[Path], cache: Path) -> Published:
    """Put wheels into the index, and write every page anew; what was there stays.

    UsageError for a folder or a file that can't be used, AuditError for what is no wheel and for
    other bytes under a name that is published. Then nothing of the index has changed.
    """
    for wheel in wheels:
        if not wheel.is_file():
            raise UsageError(f"{wheel} is not a file", next=f"ls {wheel.parent}")
    check_place(folder)
    with usable(folder, "DIR"):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(folder, cache, f"the index {folder}"), beside(folder / "files") as staged:
        old = listed(folder)
        new = staged_entries(staged, wheels)
        fresh = distinct(old, new)
        for name in fresh:
            move_in(staged / name, folder / "files" / name)
        entries = tuple(pages.ordered([*old.values(), *(new[name] for name in fresh)]))
        published = Published(entries=entries, added=tuple(fresh))
        write_pages(folder, published)
    return published


def check_place(folder: Path) -> None:
    """UsageError for a folder that can't be written, or that holds something else."""
    check_writable(folder, "DIR")
    if not folder.exists():
        return
    with usable(folder, "DIR"):
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    links = [name for name in OURS & names if (folder / name).is_symlink()]
    if links or (names - OURS and not (folder / "simple" / pages.JSON).is_file()):
        raise UsageError(
            f"{folder} holds something else than an index",
            means="Nothing was written.",
            next="name a new folder, or one that this verb has made",
        )


def listed(folder: Path) -> dict[str, Entry]:
    """The wheels in files/ by name, each as it was published; AuditError if one isn't."""
    hashes = published_hashes(folder)
    files = folder / "files"
    names = sorted(path.name for path in files.iterdir()) if files.is_dir() else []
    if gone := sorted(set(hashes) - set(names)):
        page = folder / "simple" / hashes[gone[0]].project / pages.JSON
        raise AuditError(
            f"{escaped(gone[0])} is published and isn't in {files} any more",
            means="Who has it locked by its hash couldn't install it. The index is as it was.",
            next=f"put it back; if it was taken out on purpose: rm {page}",
        )
    found = {}
    for name in names:
        path = files / name
        if path.is_symlink() or not path.is_file() or not name.endswith(".whl"):
            if not name.endswith(pages.METADATA):
                say(f"  left out: {escaped(name)} in {files}, which is no wheel")
            continue
        known = hashes.get(name)
        found[name] = entry_of(path, known_sha256=known.sha256 if known else None)
    return found


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a page says of a wheel. project: the folder that the page is in."""

    project: str
    sha256: str


def published_hashes(folder: Path) -> dict[str, Known]:
    """The hash of every wheel that the index's pages name."""
    found: dict[str, Known] = {}
    for page in sorted((folder / "simple").glob(f"*/{pages.JSON}")):
        try:
            hashes = pages.published_hashes(page.read_bytes())
            found |= {n: Known(project=page.parent.name, sha256=h) for n, h in hashes.items()}
        except ValueError:
            say(f"  {page} was damaged; it is written anew from the wheels that are there")
    return found


def staged_entries(staged: Path, wheels: Iterable[Path]) -> dict[str, Entry]:
    """Copies of the wheels, looked at where nobody else writes; AuditError for what is none."""
    found: dict[str, Entry] = {}
    for number, wheel in enumerate(wheels):
        place = staged / str(number)
        place.mkdir()
        copied = place / wheel.name
        shutil.copyfile(wheel, copied)
        say(f"  checking {escaped(wheel.name)[1:-1]}")
        entry = entry_of(copied)
        if entry.name in found:
            check_same(found[entry.name], entry)
            continue
        found[entry.name] = entry
        copied.rename(staged / entry.name)
    return found


def distinct(old: dict[str, Entry], new: dict[str, Entry]) -> list[str]:
    """The names that are new; AuditError for other bytes under a name that some disk or installer
    takes for one that is published."""
    for name in sorted(set(old) & set(new)):
        check_same(old[name], new[name])
    gate = Gate(refuse=lambda name, why: refused(name[1:-1], why))
    for name in [*old, *(name for name in new if name not in old)]:
        gate.admit(name, "100644", 0)
    known = {parse_wheel_filename(name): name for name in old}
    for name in (name for name in new if name not in old):
        other = known.setdefault(parse_wheel_filename(name), name)
        if other != name:
            raise refused(name, f"is the same to an installer as {other}")
    return [name for name in new if name not in old]


def check_same(old: Entry, new: Entry) -> None:
    if old.sha256 == new.sha256:
        return
    raise AuditError(
        f"there are two wheels {old.name} with other bytes\n  published sha256 {old.sha256}\n"
        f"  named     sha256 {new.sha256}",
        means="Installers know a wheel by its name and lock it by its hash, so a published one "
        "never changes. The index is as it was.",
        next="raise revision in bases.toml and build it again",
    )


def move_in(staged: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    staged.rename(target)


def write_pages(folder: Path, published: Published) -> None:
    """Metadata, then pages: each names only what is there by then."""
    for entry in published.entries:
        write_changed(folder / "files" / f"{entry.name}{pages.METADATA}", entry.metadata)
    simple = folder / "simple"
    for project, entries in published.projects.items():
        write_changed(simple / project / pages.JSON, pages.project_json(project, entries))
        write_changed(simple / project / pages.HTML, pages.project_html(project, entries))
    projects = list(published.projects)
    write_changed(simple / pages.JSON, pages.root_json(projects))
    write_changed(simple / pages.HTML, pages.root_html(projects))
    for page in (*simple.glob(f"*/{pages.JSON}"), *simple.glob(f"*/{pages.HTML}")):
        if page.parent.name not in published.projects:
            page.unlink()


def write_changed(path: Path, content: bytes) -> None:
    """A file that is right already isn't touched: who copies the index on copies only news."""
    if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)
