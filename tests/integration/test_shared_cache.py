# SPDX-License-Identifier: Apache-2.0
"""The compiler cache that machines share, with a real sccache and, where there is one, a Redis."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipe.compile.toolchain import sccache
from recipe.compile.toolchain.compiler_cache import CompilerCache, Hits, hits
from recipe.ground.project import Project

ROOT = Path(__file__).resolve().parents[2]
HEADER = "struct S { int a; %s int b; };\n"
SOURCE = '#include "cfg.h"\n#include <vector>\nint at() { return __builtin_offsetof(S, b); }\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(root=ROOT, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def no_shared_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine's environment says of caches stays out of the tests."""
    for name in [name for name in os.environ if name.startswith(("SCCACHE_", "CCACHE_"))]:
        monkeypatch.delenv(name)


@dataclass(frozen=True, kw_only=True)
class Redis:
    """A Redis of the test's own on loopback."""

    address: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("there is no redis-server on this machine: apt-get install redis-server")
    port = free_port()
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    running = Redis(address=f"redis://127.0.0.1:{port}", process=process)
    try:
        wait_for(port)
        yield running
    finally:
        running.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the server doesn't listen")


def tree(folder: Path, between: str = "") -> Path:
    (folder / "inc").mkdir(parents=True)
    (folder / "inc" / "cfg.h").write_text(HEADER % between, encoding="utf-8")
    (folder / "x.cpp").write_text(SOURCE, encoding="utf-8")
    return folder


def compile_in(work: Path, cache: CompilerCache) -> bytes:
    """An object of the tree's source, compiled as CMake does: by absolute paths."""
    command = [cache.tool, "c++", "-O1", f"-I{work}/inc", "-c", f"{work}/x.cpp", "-o", "x.o"]
    done = subprocess.run(
        command, cwd=work, env={**os.environ, **cache.variables}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return (work / "x.o").read_bytes()


def build(project: Project, work: Path, asked: str = "auto") -> tuple[bytes, Hits]:
    with sccache.compiler_cache(asked, project, work, offline=False) as cache:
        assert cache is not None
        return compile_in(work, cache), hits(cache)


def servers(of: Project) -> list[int]:
    """Processes of the project's own sccache that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if command.startswith(str(of.cache).encode()):
                found.append(int(entry.name))
    return found


def all_end(of: Project) -> bool:
    """Whether none of them stays; one that was told to stop takes a moment."""
    patience = time.monotonic() + 10
    while servers(of):
        if time.monotonic() > patience:
            return False
        time.sleep(0.05)
    return True


def test_a_second_machine_takes_its_objects_from_the_shared_cache(
    project: Project, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCCACHE_REDIS_ENDPOINT", redis.address)
    first = tree(tmp_path / "one" / "work")
    second = tree(tmp_path / "another" / "place")

    monkeypatch.setenv("SCCACHE_DIR", str(tmp_path / "local1"))
    made, cold = build(project, first)
    monkeypatch.setenv("SCCACHE_DIR", str(tmp_path / "local2"))
    taken, warm = build(project, second)

    assert (cold.hits, cold.misses) == (0, 1)
    assert (warm.hits, warm.misses) == (1, 0)
    assert "shared by Redis" in str(warm)
    assert made == taken
    assert not list(tmp_path.glob("local*/**/*.o")), "nothing was to come from a local cache"
    assert all_end(project)


def test_a_tree_with_another_header_never_gets_the_first_ones_object(
    project: Project, tmp_path: Path
) -> None:
    one, _ = build(project, tree(tmp_path / "a"), "sccache")

    other, counted = build(project, tree(tmp_path / "b", "int between;"), "sccache")

    assert counted.misses == 1
    assert one != other


def test_a_build_goes_on_where_the_shared_cache_does_not_answer(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SCCACHE_REDIS_ENDPOINT", f"redis://me:secret@127.0.0.1:{free_port()}")
    monkeypatch.setattr(sccache, "ANSWER_SECONDS", 2)

    _, counted = build(project, tree(tmp_path / "work", "char alone;"))

    assert (counted.hits, counted.misses) == (0, 1)
    assert "the shared cache (Redis) doesn't answer; this build used a local one" in str(counted)
    said = capsys.readouterr().err
    assert "warning: the shared cache (Redis)" in said
    assert "secret" not in said
    assert all_end(project)


def test_its_server_ends_with_a_build_that_fails(project: Project, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        sccache.compiler_cache("sccache", project, tmp_path, offline=False),
    ):
        assert servers(project)
        raise RuntimeError

    assert all_end(project)


def test_its_server_ends_with_a_build_that_is_killed(project: Project, tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv on this machine")
    program = (
        "import os, signal, sys; from pathlib import Path;"
        "from recipe.compile.toolchain import sccache;"
        "from recipe.ground.project import Project;"
        "project = Project(root=Path(sys.argv[1]), cache=Path(sys.argv[2]));"
        "held = sccache.compiler_cache('sccache', project, Path(sys.argv[3]), offline=True);"
        "held.__enter__();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with sccache.compiler_cache("sccache", project, tmp_path, offline=False):
        pass  # sccache itself is in the cache now
    words = [sys.executable, "-c", program, str(project.root), str(project.cache), str(tmp_path)]

    done = subprocess.run(words, cwd=ROOT, check=False)

    assert done.returncode == -signal.SIGKILL
    assert all_end(project)


def test_a_server_that_died_leaves_the_build_without_figures(
    project: Project, tmp_path: Path
) -> None:
    work = tree(tmp_path / "work")
    with sccache.compiler_cache("sccache", project, work, offline=False) as cache:
        assert cache is not None
        for pid in servers(project):
            os.kill(pid, signal.SIGKILL)

        assert compile_in(work, cache)

        assert "isn't known" in str(hits(cache))
    assert all_end(project)


@pytest.mark.parametrize(
    ("environ", "kinds"),
    [
        ({}, {}),
        ({"SCCACHE_DIR": "/x", "SCCACHE_LOG": "info"}, {}),
        ({"SCCACHE_BUCKET": "b", "AWS_REGION": "r"}, {"SCCACHE_BUCKET": "S3"}),
        ({"SCCACHE_REDIS_ENDPOINT": ""}, {}),
        (
            {"SCCACHE_REDIS_ENDPOINT": "redis://x", "SCCACHE_REDIS_TTL": "1"},
            {"SCCACHE_REDIS_ENDPOINT": "Redis", "SCCACHE_REDIS_TTL": "Redis"},
        ),
    ],
)
def test_a_shared_cache_is_known_by_its_variables(
    environ: Mapping[str, str], kinds: Mapping[str, str]
) -> None:
    assert sccache.shared(environ) == kinds


def test_figures_count_objects_and_not_the_steps_within_nvcc() -> None:
    stats = {
        "cache_hits": {"counts": {"C/C++": 2, "CUDA": 3, "PTX": 4, "CUBIN": 5}},
        "cache_misses": {"counts": {"CUDA": 1, "CUDA (Device code)": 9}},
        "cache_errors": {"counts": {"C/C++": 1}},
        "cache_write_errors": 2,
    }

    counted = sccache.counted(stats, "shared by S3")

    assert (counted.hits, counted.misses) == (5, 1)
    assert counted.note == "shared by S3; 3 errors of the cache, where a compiler ran instead"
