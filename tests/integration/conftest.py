# SPDX-License-Identifier: Apache-2.0
"""The real project with the user's cache, or with a cache of its own that may be damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recipe.bases.releases import Bases, load_bases
from recipe.compile.toolchain.environment import COMPILE, NativeEnv
from recipe.compile.toolchain.toolkit import Toolkit
from recipe.ground.environments.made import QUIET_PIP, kept
from recipe.ground.project import Project, open_project
from tests.recipe.world import CHECKOUT, Checkout


@pytest.fixture(scope="session")
def bases() -> Bases:
    return load_bases(CHECKOUT / "bases.toml")


@pytest.fixture(scope="session")
def real() -> Checkout:
    """This checkout with the cache in use: what is fetched is kept for the next time."""
    return Checkout(root=CHECKOUT, cache=open_project().cache)


@pytest.fixture
def private(real: Checkout, tmp_path: Path) -> Checkout:
    """This checkout with a new cache that holds the downloads and nothing else."""
    cache = tmp_path / "cache"
    for path in (real.cache / "downloads").glob("*/*"):
        if path.suffix in (".whl", ".gz"):
            target = cache / "downloads" / path.parent.name / path.name
            target.parent.mkdir(parents=True)
            link_or_copy(path, target)
    for path in (real.cache / "audit").glob("*.json"):
        (cache / "audit").mkdir(exist_ok=True)
        shutil.copy(path, cache / "audit")
    return Checkout(root=CHECKOUT, cache=cache)


def link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another disk
        shutil.copy(path, target)


@pytest.fixture(scope="session")
def tools(real: Checkout) -> NativeEnv:
    """The build environment as it is locked, without torch and CUDA; kept in the cache."""
    lock = CHECKOUT / "requirements" / "native.lock"

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", *QUIET_PIP]
        subprocess.run([*pip, "--require-hashes", "-r", str(lock)], check=True)

    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = kept(
        Project(root=CHECKOUT, cache=real.cache),
        f"standin-{digest}",
        make,
        {"lock": digest},
        offline=False,
        room=1 << 28,
        purpose=COMPILE,
    )
    return NativeEnv(
        folder=folder,
        shelf=folder,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        torch="2.11.0",
        toolkit=Toolkit(root=folder / "toolkit", version="13.0.88", why="none is needed"),
        compiler="c++",
    )


@pytest.fixture
def port() -> Iterator[int]:
    """A server on loopback that the build must not reach."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()
