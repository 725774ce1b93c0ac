# SPDX-License-Identifier: Apache-2.0
"""A generated history as real commits, their patches as git writes them, and folders beside it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipe.objects.git import Store, open_store
from recipe.series.overlay import OverlayFile
from recipe.series.patch import Patch
from recipe.series.tree import Applied, apply_all
from tests.recipe.edits import File, History, Tree, full_message
from tests.recipe.repo import FORMAT, Repository, read

LOG = "--format=%T%x00%an%x00%ae%x00%ad%x00%B%x01"


@dataclass(frozen=True, kw_only=True)
class Made:
    """git's commits of a history (the base first), and the patches read by the recipe."""

    folder: Path
    repository: Repository
    commits: tuple[str, ...]
    patches: tuple[Patch, ...]

    @property
    def base(self) -> str:
        return self.commits[0]

    @property
    def tree(self) -> str:
        """The tree of git's last commit."""
        return self.repository.text("rev-parse", f"{self.commits[-1]}^{{tree}}")

    def store(self) -> Store:
        """A store that holds the base alone: what a patch doesn't carry can't be found in it."""
        store = open_store(self.folder / "store.git")
        # A folder of the file system is fetched from without its other objects.
        source = f"file://{self.repository.root}"
        store.git("fetch", "--quiet", source, f"{self.base}:refs/sm12x/test")
        return store

    def applied(self, store: Store, files: tuple[OverlayFile, ...] = ()) -> Applied:
        return apply_all(store, self.base, self.patches, files)

    def log(self) -> bytes:
        """Trees, authors, dates and messages of git's commits."""
        return self.repository.git("log", LOG, "--date=raw", f"{self.base}..{self.commits[-1]}")


@contextlib.contextmanager
def made(history: History) -> Iterator[Made]:
    with tempfile.TemporaryDirectory() as name:
        yield make(Path(name), history)


def make(folder: Path, history: History) -> Made:
    repository = Repository(root=folder / "made")
    repository.root.mkdir()
    repository.git("init", "--quiet", "--initial-branch=main")
    stream = commit_stream(history.base, "upstream\n", "A <a@x.example> 1700000000 +0000")
    for number, edit in enumerate(history.edits):
        message = full_message(edit.subject, edit.body, f"topic-{number}")
        stream += commit_stream(edit.tree, message, f"{edit.author} {edit.date}")
    repository.git("fast-import", "--quiet", "--done", stdin=stream + b"done\n")
    commits = repository.text("rev-list", "--reverse", "main").split()
    mails = repository.root / ".git" / "mails"
    options = [option for option in FORMAT if option != "--stdout"]
    repository.git("format-patch", "-k", *options, "-o", str(mails), f"{commits[0]}..main")
    patches = tuple(
        read(folder, path.read_bytes(), f"{number}.patch")
        for number, path in enumerate(sorted(mails.iterdir()))
    )
    return Made(folder=folder, repository=repository, commits=tuple(commits), patches=patches)


def commit_stream(tree: Tree, message: str, who: str) -> bytes:
    text = message.encode()
    out = f"commit refs/heads/main\nauthor {who}\ncommitter {who}\n".encode()
    out += b"data %d\n%s\ndeleteall\n" % (len(text), text)
    for path, file in tree.items():
        mode = b"100755" if file.executable else b"100644"
        out += b"M %s inline %s\n" % (mode, quoted(path))
        out += b"data %d\n%s\n" % (len(file.content), file.content)
    return out


def quoted(path: str) -> bytes:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode()


def write_tree(folder: Path, tree: Tree) -> None:
    for name, file in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(0o755 if file.executable else 0o644)


def read_tree(folder: Path, *, without: str = ".git") -> Tree:
    """Every file of a folder, but for those in its folder `without`."""
    return {
        path.relative_to(folder).as_posix(): File(
            content=path.read_bytes(), executable=bool(path.stat().st_mode & 0o100)
        )
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != without
    }


def no_conversion(repository: Repository) -> None:
    """Attributes of the generated trees don't change line ends in the repository's work tree."""
    attributes = repository.root / ".git" / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text("* -text -ident\n", encoding="utf-8")
