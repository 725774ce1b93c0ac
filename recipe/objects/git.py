# SPDX-License-Identifier: Apache-2.0
"""The object store, by git's command line; GitPython fetches."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from recipe.ground import run, scratch
from recipe.ground.errors import MachineError, SourceError
from recipe.ground.secret import address, authorization, plain
from recipe.objects import health
from recipe.objects.settings import COMMITTER as COMMITTER
from recipe.objects.settings import CONFIG, TAR, configured
from recipe.objects.settings import EPOCH as EPOCH
from recipe.objects.settings import IDENTITY as IDENTITY
from recipe.objects.settings import ISOLATED as ISOLATED
from recipe.objects.settings import ignore_attributes as ignore_attributes

# What a killed git leaves in a repository. Not objects/*/tmp_obj_*: loose objects are written
# without the store's lock, so one may be another run's.
LEFTOVERS = (
    "objects/pack/tmp_*",
    "objects/pack/.tmp-*",
    "refs/**/*.lock",
    "*.lock",
    "fast_import_crash_*",
)


class DoesNotApply(Exception):
    """What git says of a patch whose context isn't there."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.lines = [line.removeprefix("error: ") for line in reason.splitlines() if line]


class NotThere(SourceError):
    """A remote that hasn't got a tag, or that doesn't answer."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One path that differs between two trees; status is git's letter (A, M, D, T)."""

    status: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Store:
    """A bare repository used as the object store of every upstream tree."""

    path: Path

    def git(self, *args: str, stdin: bytes | None = None, index: Path | None = None) -> bytes:
        env = {**ISOLATED, "GIT_DIR": str(self.path)}
        if index is not None:
            env["GIT_INDEX_FILE"] = str(index)
        try:
            return run.output(["git", *args], env=env, stdin=stdin)
        except run.CommandFailed as error:
            if error.returncode == 1:  # git's no, not git's trouble
                raise
            health.check(self.path)
            if args[0] == "rev-parse":  # it only reads: what it doesn't find isn't there
                raise
            for place in (self.path, *([] if index is None else [index.parent])):
                if run.is_full(place):
                    raise run.disk_full(place, f"git {args[0]} could not write") from None
            raise

    def text(self, *args: str) -> str:
        return self.git(*args).decode().strip()

    def commit_of(self, ref: str) -> str | None:
        """The commit a ref names; None where there is no such ref or its objects are damaged."""
        try:
            commit = self.text("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
            self.git("cat-file", "-e", f"{commit}^{{tree}}")
        except run.CommandFailed:
            return None
        return commit

    def set_ref(self, ref: str, commit: str) -> None:
        self.git("update-ref", ref, commit)

    def tree_of(self, commit: str) -> str:
        return self.text("rev-parse", f"{commit}^{{tree}}")

    def has_path(self, commit: str, path: str) -> bool:
        return bool(self.git("ls-tree", "--name-only", commit, "--", path))

    def read(self, commit: str, path: str) -> bytes:
        return self.git("cat-file", "blob", f"{commit}:{path}")

    def changes(self, old: str, new: str) -> tuple[Change, ...]:
        """Paths that differ, renames as a removal and an addition, sorted by path."""
        raw = self.git("diff-tree", "-r", "-z", "--no-renames", "--name-status", old, new)
        with run.understood("git diff-tree"):
            words = raw.decode().split("\0")[:-1]
            pairs = zip(words[::2], words[1::2], strict=True)
            return tuple(Change(status=status, path=path) for status, path in pairs)

    def renamed(self, old: str, new: str, path: str) -> str | None:
        """What a file of `old` is called in `new`, if at least half of its lines are there.

        Files of the same name are looked at first: comparing all that came with all that went takes
        a second in a tree of thousands.
        """
        listing = self.git("ls-tree", "-r", "-z", "--name-only", new).decode().split("\0")
        name = path.rsplit("/", 1)[-1]
        same = [one for one in listing if one.rsplit("/", 1)[-1] == name]
        for places in ([path, *same], []):
            options = ("-r", "-z", "-M", "--diff-filter=R", "--name-status")
            raw = self.git("--literal-pathspecs", "diff-tree", *options, old, new, "--", *places)
            with run.understood("git diff-tree"):
                words = raw.decode().split("\0")[:-1]
                found = dict(zip(words[1::3], words[2::3], strict=True)).get(path)
            if found is not None:
                return found
        return None

    def find_line(self, commit: str, line: bytes) -> list[str]:
        """path:line of every place in a tree that has this text in a line."""
        wanted = line.decode("utf-8", "replace")
        try:
            out = self.git("grep", "-n", "-I", "-F", "-e", wanted, commit)
        except run.CommandFailed as error:
            if error.returncode == 1:
                return []
            raise
        rows = out.decode("utf-8", "replace").splitlines()
        return [":".join(row.split(":", 3)[1:3]) for row in rows]

    def commit(
        self, tree: str, parent: str | None, *, message: str, author: str = "", date: str = EPOCH
    ) -> str:
        """Write a commit; author is ``Name <address>``, date anything git reads."""
        name, address = split_author(author) if author else IDENTITY
        env = {
            **ISOLATED,
            "GIT_DIR": str(self.path),
            "GIT_AUTHOR_NAME": name,
            "GIT_AUTHOR_EMAIL": address,
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_NAME": IDENTITY[0],
            "GIT_COMMITTER_EMAIL": IDENTITY[1],
            "GIT_COMMITTER_DATE": date,
        }
        parents = ["-p", parent] if parent else []
        made = run.output(["git", "commit-tree", tree, *parents], env=env, stdin=message.encode())
        return made.decode().strip()

    @contextmanager
    def index(self, commit: str) -> Iterator[Path]:
        """A temporary index that holds `commit`'s tree; there is never a work tree."""
        with scratch.folder(self.path.parent, "index") as folder:
            index = folder / "index"
            self.git("read-tree", commit, index=index)
            yield index

    def apply(self, content: bytes, index: Path, *, reverse: bool = False) -> None:
        """Put a patch on an index, or take it off: where its whole context matches, or not at all.

        git apply moves a hunk but has no fuzz; --cached works on the index alone and changes
        nothing if any hunk fails. DoesNotApply then, with git's reason; CommandFailed for
        whatever else keeps git from an answer.
        """
        way = ["--reverse"] if reverse else []
        command = ["apply", "--cached", "--whitespace=nowarn", *way, "-"]
        try:
            self.git(*command, stdin=content, index=index)
        except run.CommandFailed as error:
            if error.returncode != 1:
                raise
            raise DoesNotApply(error.stderr) from None

    def range_diff(self, before: str, after: str, stack: str, tree: str) -> str:
        """How a change differs from what became of it on another stack, for a person."""
        pairs = []
        for old, new in ((before, after), (stack, tree)):
            base = self.commit(self.tree_of(old), None, message="before")
            pairs.append(f"{base}..{self.commit(self.tree_of(new), base, message='the patch')}")
        # However little is left alike, the two are one patch.
        return self.text("range-diff", "--no-color", "--creation-factor=999", *pairs)

    def format_patch(self, commit: str) -> bytes:
        """One commit as a mail, byte-stable."""
        return self.git(
            "format-patch",
            "-1",
            "--stdout",
            "--full-index",  # whole blob ids: a three-way merge needs them, and they never change
            "--binary",
            "--zero-commit",  # the commit's own id means nothing elsewhere
            "--no-signature",  # git's version would change with git
            "--no-stat",
            "-k",  # the subject as it is, without [PATCH]
            commit,
        )

    def fetch_tree(self, root: Path, ref: str) -> str:
        """Take in what a work tree has checked out; its commit."""
        address = str(root.resolve())
        self.fetch(address, f"+HEAD:{ref}")
        return self.text("rev-parse", ref)

    def export(self, commit: str, folder: Path) -> None:
        """Write the commit's files into `folder`, which must exist."""
        archive = ["git", "archive", "--format=tar", commit]
        try:
            run.pipe(
                archive,
                ["tar", "-x", "-f", "-", "-C", str(folder)],
                env={**ISOLATED, **TAR, "GIT_DIR": str(self.path)},
            )
        except run.CommandFailed as error:
            if run.is_full(folder):
                raise run.disk_full(folder, "the tree could not be written") from None
            raise MachineError(
                f"a source tree could not be written: {error.what}",
                next="python build.py doctor",
            ) from None

    def fetch_commit(self, url: str, tag: str) -> str:
        """Fetch one tag of a remote and give its commit; SourceError if that doesn't work."""
        ref = f"refs/sm12x/tags/{tag}"
        try:
            self.fetch(url, f"+refs/tags/{tag}:{ref}", "--depth=1")
            return self.text("rev-parse", "--verify", f"{ref}^{{commit}}")
        except run.CommandFailed as error:
            raise NotThere(
                f"tag {tag} could not be fetched from {plain(url)}: {error.stderr.strip()}",
                means="No source was changed.",
                next="check the address and the network, or build from the archive: --source sdist",
            ) from None

    def fetch_history(self, url: str, tag: str, since: str) -> None:
        """Fetch the commits that a tag has and another tag hasn't; CommandFailed if that fails."""
        wanted = f"+refs/tags/{tag}:refs/sm12x/tags/{tag}"
        self.fetch(url, wanted, f"--shallow-exclude=refs/tags/{since}")
        # The first of them needs its parent, or it would seem to bring the whole tree.
        self.fetch(url, wanted, "--deepen=1")

    def fetch_revision(self, url: str, commit: str) -> str:
        """Fetch a commit of a remote by its full id."""
        try:
            self.fetch(url, commit, "--depth=1")
            return self.text("rev-parse", "--verify", f"{commit}^{{commit}}")
        except run.CommandFailed as error:
            raise SourceError(
                f"commit {commit} could not be fetched from {plain(url)}: {error.stderr.strip()}",
                means="No source was changed.",
                next="check the address and the network; a server may refuse single commits",
            ) from None

    def fetch(self, url: str, wanted: str, *how: str) -> None:
        """git fetch; what proves who asks isn't in its command line, nor in what it writes."""
        command = ["git", "fetch", "--quiet", "--no-tags", "--no-auto-gc", "--no-write-fetch-head"]
        env = {**ISOLATED, "GIT_DIR": str(self.path)}
        proof = authorization(url)
        if proof is not None:
            env |= configured(
                {**CONFIG, f"http.{address(url)}.extraHeader": f"Authorization: {proof}"}
            )
        command += [*how, "--", address(url), wanted]
        # Its own exception doesn't tell a git that was killed from one that failed.
        status, out, err = (
            git_python()
            .Git()
            .execute(command, env=env, with_extended_output=True, with_exceptions=False)
        )
        run.said(command, status, str(out).encode(), str(err).encode())


def git_python() -> ModuleType:
    """GitPython, imported where something is fetched: elsewhere nobody waits for it.

    It starts git as it is imported, and says an ImportError if that fails.
    """
    try:
        import git
    except ImportError as error:
        status = getattr(error.__cause__, "status", None)
        if isinstance(status, int):
            run.said(["git", "version"], status, b"", str(error).encode())
        raise
    return git


def open_store(path: Path) -> Store:
    """The object store, made if it isn't there, freed of what a killed run left behind.

    Call it with the store's lock held: it removes lock files and half-written packs.
    """
    if shutil.which("git") is None:
        raise MachineError("git is not installed", next="apt-get install git")
    if not (path / "HEAD").exists():
        temporary = path.with_name(path.name + ".new")
        shutil.rmtree(temporary, ignore_errors=True)
        env = {**ISOLATED, "GIT_TEMPLATE_DIR": ""}
        run.output(["git", "init", "--quiet", "--bare", str(temporary)], env=env)
        temporary.rename(path)
    scratch.clear(path.parent)
    for pattern in LEFTOVERS:
        for stale in path.glob(pattern):
            stale.unlink(missing_ok=True)
    ignore_attributes(path)
    return Store(path=path)


def split_author(author: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*(.*?)\s*<([^<>]*)>\s*", author)
    return (match[1], match[2]) if match else (author, "")
