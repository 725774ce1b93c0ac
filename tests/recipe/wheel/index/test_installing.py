# SPDX-License-Identifier: Apache-2.0
"""pip and uv install from the index, as they would from any other, with what a wheel needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recipe.bases.download import list_files
from recipe.wheel.index.folder import publish
from recipe.wheel.index.serve import HTML, JSON, TEXT, Server, chosen_form
from tests.recipe.packages import pure_wheel
from tests.recipe.server import Index
from tests.recipe.wheel.index.test_publishing import NEXT, OURS, SPARK, made
from tests.recipe.world import World

UV = str(Path(sys.executable).with_name("uv"))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
NEEDS = "vllm==9.1.0+sm12x.4"


@dataclass(kw_only=True)
class Served:
    """An index on a port of this machine, and the paths that were asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """An index with two versions and another machine's wheel."""
    wheels = [made(tmp_path, name) for name in (OURS, NEXT, SPARK)]
    publish(tmp_path / "index", wheels, tmp_path / "cache")
    server = Server(tmp_path / "index")
    found = Served(url=server.url)

    class Noting(server.RequestHandlerClass):  # type: ignore[name-defined, misc]
        def log_message(self, format: str, *args: Any) -> None:
            found.asked.append(f"{self.command} {self.path}")

    server.RequestHandlerClass = Noting
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def needs(index: Index) -> Index:
    """Another index, with what the wheels require."""
    index.add("torch", "torch-2.11.0-py3-none-any.whl", pure_wheel("torch", "2.11.0", {}))
    index.add("torch", "torch-2.12.0-py3-none-any.whl", pure_wheel("torch", "2.12.0", {}))
    small = pure_wheel("smalldep", "1.2", {"smalldep.py": b"\n"})
    index.add("smalldep", "smalldep-1.2-py3-none-any.whl", small)
    return index


def environment(home: Path) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PIP_", "UV_", "PYTHON"))}
    return {**kept, "HOME": str(home), "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}


def said(command: list[str], home: Path) -> str:
    done = subprocess.run(
        command, env=environment(home), cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def with_pip(served: str, needs: Index, *more: str) -> list[str]:
    return [*PIP, "install", "--index-url", needs.url, "--extra-index-url", served, *more]


def with_uv(served: str, needs: Index) -> list[str]:
    places = ["--index", served, "--default-index", needs.url]
    return [*places, "--no-cache", "--python", sys.executable]


def test_pip_resolves_by_the_metadata_before_it_fetches_a_wheel(
    served: Served, needs: Index, tmp_path: Path
) -> None:
    dry = ("--dry-run", "--quiet", "--ignore-installed", "--report", "-")
    report = said(with_pip(served.url, needs, *dry, "vllm"), tmp_path)

    chosen = {
        one["metadata"]["name"]: one["download_info"] for one in json.loads(report)["install"]
    }
    assert sorted(chosen) == ["torch", "vllm"]
    assert chosen["vllm"]["url"].endswith("/files/" + NEXT.replace("+", "%2B"))
    content = (tmp_path / "index" / "files" / NEXT).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert chosen["vllm"]["archive_info"]["hashes"] == {"sha256": digest}
    assert chosen["torch"]["url"].endswith("torch-2.11.0-py3-none-any.whl")
    # Some versions of pip fetch in a dry run, too, once they know what it will be.
    pages = [one for one in served.asked if not one.endswith(".whl")]
    assert pages[1].endswith(".metadata") and pages[2] == "GET /simple/torch/"
    assert served.asked[: len(pages)] == pages


def test_pip_installs_an_older_version_and_what_it_needs(
    served: Served, needs: Index, tmp_path: Path
) -> None:
    target = tmp_path / "site"
    said(with_pip(served.url, needs, "--target", str(target), NEEDS), tmp_path)

    assert sorted(path.name for path in target.glob("*.dist-info")) == [
        "torch-2.11.0.dist-info",
        "vllm-9.1.0+sm12x.4.dist-info",
    ]


def test_pip_gets_the_spark_its_wheel(served: Served, needs: Index, tmp_path: Path) -> None:
    spark = ["--platform", "manylinux_2_28_aarch64", "--only-binary", ":all:", "--no-deps"]
    command = [*PIP, "download", "--index-url", served.url, "--implementation", "cp"]
    said([*command, "--python-version", "3.12", *spark, "-d", "got", "vllm"], tmp_path)
    assert [path.name for path in (tmp_path / "got").iterdir()] == [SPARK]


def test_pip_refuses_bytes_that_are_not_the_published_ones(
    served: Served, needs: Index, tmp_path: Path
) -> None:
    path = tmp_path / "index" / "files" / OURS
    path.write_bytes(made(tmp_path, OURS, content=b"other").read_bytes())
    command = with_pip(served.url, needs, "--no-deps", "--target", "site", NEEDS)
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"DO NOT MATCH THE HASHES" in done.stderr


def test_uv_locks_with_hashes_and_installs_what_it_locked(
    served: Served, needs: Index, tmp_path: Path
) -> None:
    (tmp_path / "vllm.in").write_text(f"{NEEDS}\n", encoding="utf-8")
    shared = with_uv(served.url, needs)
    compile = [UV, "pip", "compile", *shared, "--generate-hashes", "-q", "vllm.in", "-o", "lock"]
    said(compile, tmp_path)

    lock = (tmp_path / "lock").read_text(encoding="utf-8")
    content = (tmp_path / "index" / "files" / OURS).read_bytes()
    assert re.findall(r"^(\S+==\S+)", lock, re.M) == ["torch==2.11.0", NEEDS]
    assert hashlib.sha256(content).hexdigest() in lock
    assert not any(one.endswith(".whl") for one in served.asked), served.asked
    hashed = ["--require-hashes", "--target", "site", "-r", "lock"]
    said([UV, "pip", "install", *shared, *hashed], tmp_path)
    assert (tmp_path / "site" / "vllm" / "__init__.py").read_bytes() == f"{OURS}\n".encode()


def test_our_own_wheel_goes_from_a_build_into_an_environment(
    world: World, needs: Index, tmp_path: Path
) -> None:
    """The real program in each step: build, index --serve, pip and uv, an import."""
    assert world.build().status == 0
    place = world.root / "index"
    served = world.start("index", str(place), str(world.wheel()), "--serve", "--port", "0")
    try:
        assert served.stderr is not None
        line = next(line for line in served.stderr if "serving" in line)
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/simple/", line)
        said(with_pip(url, needs, "--target", "by-pip", "vllm"), tmp_path)
        shared = with_uv(url, needs)
        said([UV, "pip", "install", *shared, "--target", "by-uv", "vllm"], tmp_path)
    finally:
        served.send_signal(signal.SIGINT)
        _, err = served.communicate()
    assert served.returncode == 0, err
    for folder in ("by-pip", "by-uv"):
        source = f"import sys; sys.path.insert(0, {folder!r}); import vllm; print(vllm.__version__)"
        assert said([sys.executable, "-c", source], tmp_path) == "9.1.0+sm12x.4\n"
        assert (tmp_path / folder / "torch-2.11.0.dist-info").is_dir()


def test_the_recipe_reads_the_index_by_the_library_that_it_reads_others_with(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    found = {link.name: link for _, link in list_files("vllm")}
    assert set(found) == {OURS, NEXT, SPARK}
    content = (tmp_path / "index" / "files" / SPARK).read_bytes()
    assert found[SPARK].sha256 == hashlib.sha256(content).hexdigest()
    assert found[SPARK].requires_python == "<4,>=3.10"


def fetched(url: str, accept: str | None = None, method: str = "GET") -> Any:
    headers = {} if accept is None else {"Accept": accept}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method))


PIP_ASKS = f"{JSON}, {HTML}; q=0.1, text/html; q=0.01"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        (PIP_ASKS, JSON),
        (f"{HTML};q=0.2, {JSON};q=0.1", HTML),
        (f"text/html;q=0.5,{JSON}", JSON),
        ("application/*", HTML),
        ("application/vnd.pypi.simple.latest+json", JSON),
        ("application/vnd.pypi.simple.latest+html", HTML),
        (f"*/*;q=0.5, {JSON};q=0", TEXT),
        (f"text/*;q=0, {JSON.upper()}", JSON),
        ("application/vnd.pypi.simple.v2+json", None),
        ("text/html;q=0", None),
        ("text/html;q=2", None),
        (f"{JSON};q=x, text/html;q=0.1", TEXT),
        ("x" * 5000, TEXT),
    ],
)
def test_a_page_comes_in_the_form_that_is_liked_most(accept: str | None, form: str | None) -> None:
    assert chosen_form(accept) == form


@pytest.mark.parametrize("form", [TEXT, HTML, JSON])
def test_a_page_says_what_it_is(served: Served, form: str) -> None:
    for path in ("", "vllm/"):
        with fetched(served.url + path, form) as answer:
            content = answer.read()
            assert answer.headers["Content-Type"].partition(";")[0] == form
            assert answer.headers["Vary"] == "Accept"
            assert int(answer.headers["Content-Length"]) == len(content)
            assert content.startswith(b"{" if form == JSON else b"<!DOCTYPE html>")


def test_a_form_that_is_not_there_is_406(served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetched(served.url, "application/vnd.pypi.simple.v2+json")
    assert caught.value.code == 406
    caught.value.close()


@pytest.mark.parametrize(
    ("path", "leads"),
    [("/", "/simple/"), ("/simple", "/simple/"), ("/simple/VLLM", "/simple/vllm/")],
)
def test_other_spellings_of_a_page_lead_to_it(served: Served, path: str, leads: str) -> None:
    with fetched(served.url.removesuffix("/simple/") + path) as answer:
        assert answer.url.endswith(leads)


@pytest.mark.parametrize(
    "path",
    [
        "/simple/nothing/",
        "/simple/../files/",
        "/files/",
        "/files/..%2f..%2fsecret",
        "/files/%2e%2e/secret",
        "/../secret",
        "//secret",
        "/files/link.whl",
        "/files/%00",
        "/simple/vllm/index.json/x",
        "/files/" + "x" * 300,
        "/.hidden",
        "/files/.hidden",
    ],
)
def test_nothing_but_the_index_is_handed_out(served: Served, tmp_path: Path, path: str) -> None:
    for folder in (tmp_path, tmp_path / "index", tmp_path / "index" / "files"):
        (folder / "secret").write_bytes(b"secret")
        (folder / ".hidden").write_bytes(b"secret")
    (tmp_path / "index" / "files" / "link.whl").symlink_to(tmp_path / "secret")
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetched(served.url.removesuffix("/simple/") + path)
    assert caught.value.code == 404
    assert b"secret" not in caught.value.read()


def test_head_says_the_same_without_the_content(served: Served) -> None:
    with fetched(served.url + "vllm/", JSON, "HEAD") as answer:
        assert answer.read() == b"" and int(answer.headers["Content-Length"]) > 100


def test_it_answers_this_machine_alone(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_said_so(world: World, served: Served) -> None:
    (port,) = re.findall(r":(\d+)/", served.url)
    done = world.run("index", str(world.root / "i"), "--serve", "--port", port)
    assert done.status == 8, done.err
    assert done.next == "let the system choose one: --port 0"
