# SPDX-License-Identifier: Apache-2.0
"""Credentials work where they belong, and appear nowhere."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.recipe import small
from tests.recipe.repo import Repository
from tests.recipe.server import basic, serve
from tests.recipe.world import World

SECRET = "t0p-S3cret"
LOGIN = f"bot:{SECRET}"


def with_login(url: str, login: str = LOGIN) -> str:
    return url.replace("://", f"://{login}@")


def nowhere(secret: str, *folders: Path) -> None:
    """No file of the folders holds the secret, by its name or in its content."""
    for folder in folders:
        for path in folder.rglob("*"):
            assert secret not in path.name
            if path.is_file():
                content = path.read_bytes()
                assert secret.encode() not in content, path
                assert basic(LOGIN).encode() not in content, path


def test_an_indexs_credentials_are_told_for_pages_and_files_and_shown_nowhere(
    world: World,
) -> None:
    world.index.login = LOGIN
    env = {"PIP_INDEX_URL": with_login(world.index.url)}

    done = world.run("build", "--no-test", "--json", "--out", str(world.out), env=env)

    assert done.status == 0, done.err
    files = [proof for path, proof in world.index.proofs if path.startswith("/files/")]
    assert len(files) == 2
    assert set(files) == {basic(LOGIN)}
    assert SECRET not in done.out + done.err
    nowhere(SECRET, world.cache, world.out)


def test_wrong_credentials_are_an_error_that_does_not_show_them(world: World) -> None:
    world.index.login = "bot:another"
    env = {"PIP_INDEX_URL": with_login(world.index.url)}
    for args in (["plan"], ["bases", "add", "v9.1.0"], ["bases", "check"]):
        done = world.run(*args, "--json", env=env)
        assert done.status == 3, done.err
        assert SECRET not in done.out + done.err
        assert "Traceback" not in done.err


def test_another_server_is_not_told_who_asks(world: World) -> None:
    with serve() as other:
        other.files = world.index.files
        world.index.login = LOGIN
        world.index.elsewhere = other.url.replace("127.0.0.1", "localhost")
        env = {"PIP_INDEX_URL": with_login(world.index.url), "NO_PROXY": "127.0.0.1,localhost"}
        world.good("plan", env=env)
        assert other.fetched(small.SDIST) == [None]
        assert {proof for _, proof in other.proofs} == {None}


@contextmanager
def git_server(folder: Path) -> Iterator[tuple[str, list[str | None]]]:
    """A git host over plain HTTP, which wants a login; what each request proved."""
    proofs: list[str | None] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def do_GET(self) -> None:
            proof = self.headers.get("Authorization")
            proofs.append(proof)
            if proof != basic(LOGIN):
                self.send_error(401)
                return
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/vllm.git", proofs
        server.shutdown()
        thread.join()


def test_a_token_in_a_sources_address_is_in_no_record_log_document_or_error(
    world: World, tmp_path: Path
) -> None:
    commit = world.upstream.text("rev-parse", "HEAD")
    world.upstream.git("tag", small.TAG)
    text = (world.root / "bases.toml").read_text(encoding="utf-8")
    (world.root / "bases.toml").write_text(text.replace(small.COMMIT, commit), encoding="utf-8")
    hosted = tmp_path / "host" / "vllm.git"
    subprocess.run(
        ["git", "clone", "--quiet", "--bare", str(world.upstream.root), str(hosted)], check=True
    )
    Repository(root=hosted).git("update-server-info")
    with git_server(hosted.parent) as (url, proofs):
        for verb in (["plan"], ["build", "--no-test", "--out", str(world.out)]):
            done = world.run(*verb, "--source", with_login(url), "--json")
            assert SECRET not in done.out + done.err
            # A server of plain files can't cut a history short, so git may refuse its depth.
            if done.status != 0:
                assert done.status == 3, done.err
        assert basic(LOGIN) in proofs
        bad = world.run("plan", "--source", with_login(url, "bot:other-S3cret"), "--json")
        assert bad.status == 3
        assert "other-S3cret" not in bad.out + bad.err
    nowhere(SECRET, world.cache, world.root)
