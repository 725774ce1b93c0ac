# SPDX-License-Identifier: Apache-2.0
"""Small real git repositories, and patches in the form the series takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.objects.git import ISOLATED, Store
from recipe.series.patch import Patch, read_patch

AUTHOR = "vllm-sm12x maintainers <maintainers@vllm-sm12x.example>"
DATE = "2026-11-22T00:00:00+00:00"
TRAILERS = {
    "Topic": "topic",
    "Bases": ">=9",
    "Origin": "vendor",
    "Forwarded": "no",
    "Tests": "tests/patched/test_small.py",
}
FORMAT = ["--stdout", "--full-index", "--binary", "--zero-commit", "--no-signature", "--no-stat"]
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in {
        "NAME": AUTHOR.split(" <")[0],
        "EMAIL": AUTHOR.split("<")[1].rstrip(">"),
        "DATE": DATE,
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A work tree with its repository, driven by the git command line."""

    root: Path

    def git(self, *args: str, stdin: bytes | None = None) -> bytes:
        return subprocess.run(
            ["git", *args],
            cwd=self.root,
            env={**os.environ, **ISOLATED, **WHO},
            input=stdin,
            capture_output=True,
            check=True,
        ).stdout

    def text(self, *args: str) -> str:
        return self.git(*args).decode().strip()

    def write(self, files: Mapping[str, bytes | None]) -> None:
        """Write files by path; None removes one."""
        for name, content in files.items():
            path = self.root / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def commit(self, files: Mapping[str, bytes | None], message: str = "change") -> str:
        self.write(files)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.text("rev-parse", "HEAD")

    def format_patch(self, *options: str) -> bytes:
        """The last commit as a patch file, written the way patches/ is."""
        return self.git("format-patch", "-1", "-k", *FORMAT, *options)

    def patch(
        self, files: Mapping[str, bytes | None], subject: str = "Change it", **trailers: str
    ) -> bytes:
        """Commit an edit with a full header and give it as a patch file."""
        self.commit(files, message(subject, **trailers))
        return self.format_patch()


def message(subject: str, **changed: str) -> str:
    """A commit message with every trailer; keywords use _ for -; an empty value leaves one out."""
    values = {**TRAILERS, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = "\n".join(f"{name}: {value}" for name, value in values.items() if value)
    return f"{subject}\n\nWhy it is needed.\n\n{lines}\n"


def new_repository(root: Path, files: Mapping[str, bytes]) -> Repository:
    root.mkdir(parents=True)
    made = Repository(root=root)
    made.git("init", "--quiet", "--initial-branch=main")
    made.commit(files, "upstream")
    return made


def numbered(count: int, word: str = "line") -> bytes:
    return b"".join(b"%s %d\n" % (word.encode(), number) for number in range(1, count + 1))


def read(folder: Path, content: bytes, name: str = "change.patch") -> Patch:
    """The patch as the recipe reads it from a file patches/vllm/`name` under `folder`."""
    path = folder / "patches" / "vllm" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return read_patch(folder / "patches", f"vllm/{name}")


def fetched(store: Store, repository: Repository) -> str:
    """The repository's newest commit, in the store."""
    store.git("fetch", "--quiet", str(repository.root), "+HEAD:refs/sm12x/test")
    commit = store.commit_of("refs/sm12x/test")
    assert commit is not None
    return commit


AM = ["am", "--quiet", "--keep-non-patch", "--keep-cr", "--committer-date-is-author-date"]
