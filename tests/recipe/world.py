# SPDX-License-Identifier: Apache-2.0
"""A whole small project around the real recipe: pins, series, overlay, cache and package index.

Its commands are run as a user's are, in a process of their own, so exit codes, standard output and
what is left on the disk are the real ones.
"""

from __future__ import annotations

import compileall
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.recipe import small
from tests.recipe.repo import Repository, new_repository
from tests.recipe.server import Index

CHECKOUT = Path(__file__).resolve().parents[2]
MACHINE = platform.machine()


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def next(self) -> str:
        """What the message tells the reader to type; fails the test if it tells nothing."""
        lines = [line for line in self.err.splitlines() if line.startswith("  next: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("  next: ")

    @property
    def document(self) -> dict[str, Any]:
        """Standard output, which must be one JSON document and nothing else."""
        read = json.loads(self.out)
        assert isinstance(read, dict)
        return read


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A project folder with a cache, and the environment its commands get.

    dropped: beginnings of the variables of this process that they don't get.
    """

    root: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ("GIT_", "SM12X_")

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(self.dropped)
        }
        return {
            **kept,
            "PYTHONPATH": str(self.root),
            "PYTHONSAFEPATH": "1",
            "SM12X_CACHE": str(self.cache),
            **self.env,
            **(extra or {}),
        }

    def start(
        self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, so that all of it can be killed."""
        return subprocess.Popen(
            [sys.executable, "-m", "recipe", *args],
            cwd=cwd or self.root,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Done:
        process = self.start(*args, env=env, cwd=cwd)
        out, err = process.communicate()
        return Done(status=process.returncode, out=out, err=err)

    def good(self, *args: str, env: Mapping[str, str] | None = None) -> Done:
        done = self.run(*args, env=env)
        assert done.status == 0, done.err
        return done

    def kill_when(self, ready: Callable[[], object], *args: str) -> None:
        """Start a command and kill -9 its whole group as soon as `ready` says so."""
        process = self.start(*args)
        while not ready() and process.poll() is None:
            time.sleep(0.002)
        ended = process.poll()
        if ended is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate()
        assert ended is None, f"it ended with {ended} before it could be killed:\n{err}"

    def refs(self) -> str:
        """The object store's refs; '' where there is no store."""
        store = self.cache / "store.git"
        if not store.exists():
            return ""
        command = ["git", f"--git-dir={store}", "for-each-ref"]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@dataclass(frozen=True, kw_only=True)
class World(Checkout):
    """A Checkout whose only base is the small release, served by `index`."""

    index: Index
    upstream: Repository
    sdist: bytes
    wheels: dict[str, bytes]

    @property
    def sdist_path(self) -> Path:
        return self.cache / "downloads" / small.sha256(self.sdist) / small.SDIST

    def add_patch(self, name: str, content: bytes) -> None:
        path = self.root / "patches" / "vllm" / name
        path.write_bytes(content)
        with (self.root / "series.txt").open("a", encoding="utf-8") as series:
            series.write(f"vllm/{name}\n")

    def add_overlay(self, name: str, content: bytes) -> Path:
        path = self.root / "overlay" / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def start(
        self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """A build compiles nothing, for which a small release has nothing, unless it says so."""
        native = ("--native", "none") if args[:1] == ("build",) and "--native" not in args else ()
        return super().start(*args, *native, env=env, cwd=cwd)

    def build(self, *args: str, env: Mapping[str, str] | None = None) -> Done:
        return self.run("build", "--no-test", "--out", str(self.out), *args, env=env)

    @property
    def out(self) -> Path:
        return self.root / "dist"

    def wheel(self) -> Path:
        """The one wheel in the output folder."""
        (found,) = self.out.glob("*.whl")
        return found

    def left_in_out(self) -> list[str]:
        """What is in the output folder besides finished wheels and their reports."""
        if not self.out.exists():
            return []
        return sorted(
            path.name
            for path in self.out.iterdir()
            if path.suffix != ".whl"
            and not path.name.endswith((".whl.build.json", ".whl.intoto.json"))
        )


def copy_recipe(root: Path) -> None:
    """The recipe's own code, compiled: a link would lead it back to the real checkout."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "recipe", root / "recipe", ignore=ignore)
    for name in ("build.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, root / name)
    compileall.compile_dir(root / "recipe", quiet=1)


def make_world(folder: Path, index: Index, code: Path) -> World:
    """A project without patches; its package index has the release's sdist and wheels."""
    root = folder / "project"
    shutil.copytree(code, root)
    for name in ("patches/vllm", "overlay/vllm", "tests/patched", "tests/overlay"):
        (root / name).mkdir(parents=True)
    (root / "tests" / "patched" / "test_small.py").touch()
    (root / "series.txt").write_text("# The order\n", encoding="utf-8")
    sdist = small.make_sdist()
    wheels = {machine: small.make_wheel() for machine in small.WHEELS}
    index.add("vllm", small.SDIST, sdist)
    for machine, content in wheels.items():
        index.add("vllm", small.WHEELS[machine], content)
    text = small.bases_toml(sdist, wheels)
    (root / "bases.toml").write_text(text, encoding="utf-8")
    home = folder / "home"
    home.mkdir()
    env = {
        "HOME": str(home),
        "PIP_INDEX_URL": index.url,
        "PIP_CONFIG_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    return World(
        root=root,
        cache=folder / "cache",
        env=env,
        dropped=("GIT_", "SM12X_", "PIP_", "UV_"),
        index=index,
        upstream=new_repository(folder / "upstream", small.TREE),
        sdist=sdist,
        wheels=wheels,
    )
