# SPDX-License-Identifier: Apache-2.0
"""Without a network the cache is enough; without both, the message says what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recipe.world import Checkout

UNSHARE = ["unshare", "--net", "--map-root-user"]


@pytest.fixture(scope="module", autouse=True)
def a_namespace_of_its_own() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not make a network namespace")


def without_network(real: Checkout, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UNSHARE, sys.executable, "-m", "recipe", *args],
        cwd=real.root,
        env=real.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("option", [(), ("--offline",)])
def test_the_cache_is_enough(real: Checkout, option: tuple[str, ...]) -> None:
    real.good("plan", "--base", "v0.33.0")
    done = without_network(real, "plan", "--base", "v0.33.0", "--json", *option)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["base"] == "v0.33.0"


def test_an_empty_cache_without_a_network_is_named(real: Checkout, tmp_path: Path) -> None:
    bare = replace(real, cache=tmp_path / "cache")
    done = without_network(bare, "plan", "--base", "v0.33.0")
    assert done.returncode == 3, done.stderr
    assert "the package index could not be asked for vllm" in done.stderr
    assert "  next: check the network" in done.stderr
    assert not list(bare.cache.rglob("*.part"))
    assert "Traceback" not in done.stderr


def test_a_damaged_archive_in_the_cache_is_not_used(private: Checkout) -> None:
    (path,) = private.cache.glob("downloads/*/vllm-0.20.2.tar.gz")
    content = bytearray(path.read_bytes())
    path.unlink()  # it may be a link to the user's own
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    done = without_network(private, "plan", "--base", "v0.20.2", "--native", "none", "--offline")

    assert done.returncode == 3
    assert "is not the pinned file" in done.stderr
    assert private.refs() == ""
    assert not path.exists()
    assert path.with_name(path.name + ".bad").exists()


def test_an_import_that_was_killed_is_done_again(private: Checkout) -> None:
    packs = private.cache / "store.git" / "objects" / "pack"
    private.kill_when(
        lambda: list(packs.glob("tmp_pack_*")), "plan", "--base", "v0.20.2", "--offline"
    )
    assert private.refs() == ""
    private.good("plan", "--base", "v0.20.2", "--offline")
    assert not list(packs.glob("tmp_*"))
