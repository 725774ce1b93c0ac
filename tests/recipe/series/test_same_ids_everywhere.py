# SPDX-License-Identifier: Apache-2.0
"""The same inputs give the same commits: in any store, under any user's git configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from recipe.objects.git import IDENTITY, ISOLATED, Store, open_store
from recipe.series.tree import apply_all
from tests.recipe.repo import AM, Repository, fetched, numbered, read
from tests.recipe.world import World

ODD_CONFIG = """\
[user]
    name = Someone Else
    email = else@elsewhere.example
[core]
    autocrlf = true
    eol = crlf
    quotepath = true
    fileMode = false
    precomposeunicode = true
    abbrev = 5
    attributesFile = ~/.gitattributes
[apply]
    whitespace = fix
    ignoreWhitespace = change
[i18n]
    commitEncoding = iso-8859-1
[commit]
    gpgSign = true
[diff]
    noprefix = true
    renames = copies
    external = false
[init]
    defaultBranch = odd
    defaultObjectFormat = sha256
[fetch]
    fsckObjects = true
[transfer]
    fsckObjects = true
[tag]
    gpgSign = true
"""
EDITED = numbered(40).replace(b"line 20\n", b"line 20 with a blank at its end \r\n\xc3\xa9\n")


def series_of(upstream: Repository) -> list[bytes]:
    first = upstream.patch({"vllm/model.py": EDITED, "vllm/neu \u00e9.txt": b"x\n"}, "Ändere es")
    second = upstream.patch({"vllm/envs.py": None, "vllm/run": b"#!/bin/sh\n"}, "Second, [odd] one")
    return [first, second]


def test_two_stores_give_the_same_ids(tmp_path: Path, upstream: Repository) -> None:
    heads = set()
    for number in (1, 2):
        store = open_store(tmp_path / f"store{number}.git")
        base = fetched(store, upstream)
        patch = read(tmp_path, upstream.patch({"vllm/model.py": EDITED}))
        heads.add(apply_all(store, base, (patch,), ()).head)
        upstream.git("reset", "--quiet", "--hard", base)
    assert len(heads) == 1


def plan_commit(world: World, cache: Path, env: dict[str, str]) -> str:
    document = world.good("plan", "--json", env={**env, "SM12X_CACHE": str(cache)}).document
    return str(document["commit"])


def test_a_users_git_configuration_changes_no_id(world: World, tmp_path: Path) -> None:
    for number, content in enumerate(series_of(world.upstream)):
        world.add_patch(f"{number}.patch", content.replace(b": topic", b": topic-%d" % number))
    world.add_overlay("vllm/ours.py", b"ours = 1\r\n")
    plain = plan_commit(world, tmp_path / "plain", {})
    odd = tmp_path / "odd-home"
    (odd / ".config" / "git").mkdir(parents=True)
    (odd / ".gitconfig").write_text(ODD_CONFIG, encoding="utf-8")
    (odd / ".config" / "git" / "config").write_text(ODD_CONFIG, encoding="utf-8")
    (odd / ".gitattributes").write_text("* text eol=crlf ident\n", encoding="utf-8")
    env = {"HOME": str(odd), "XDG_CONFIG_HOME": str(odd / ".config"), "LANG": "de_DE.UTF-8"}

    assert plan_commit(world, tmp_path / "odd", {**env, "TZ": "Asia/Kolkata"}) == plain

    tree = tmp_path / "tree"
    world.good("apply", "--tree", str(tree), env=env)
    command = ["git", "-C", str(tree), "status", "--porcelain"]
    status = subprocess.run(
        command, capture_output=True, check=True, env={**os.environ, **ISOLATED}
    )
    assert status.stdout == b""
    assert (tree / "vllm" / "model.py").read_bytes() == EDITED
    assert (tree / "vllm" / "ours.py").read_bytes() == b"ours = 1\r\n"


def test_a_git_hooks_environment_changes_nothing(world: World, tmp_path: Path) -> None:
    """Hooks and `rebase --exec` run their commands with GIT_DIR and the like set."""
    world.add_patch("0.patch", series_of(world.upstream)[0])
    plain = plan_commit(world, tmp_path / "plain", {})
    victim = world.upstream
    head, listed = victim.text("rev-parse", "HEAD"), victim.text("ls-files", "-s")
    env = {
        "GIT_DIR": str(victim.root / ".git"),
        "GIT_WORK_TREE": str(victim.root),
        "GIT_INDEX_FILE": str(victim.root / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(victim.root / ".git" / "objects"),
        "GIT_PREFIX": "vllm/",
        "GIT_AUTHOR_DATE": "2001-01-01T00:00:00Z",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "apply.ignoreWhitespace",
        "GIT_CONFIG_VALUE_0": "change",
    }

    assert plan_commit(world, tmp_path / "hook", env) == plain

    tree = tmp_path / "tree"
    done = world.good("apply", "--tree", str(tree), "--json", env=env)
    assert (tree / ".git").is_dir()
    assert Repository(root=tree).text("rev-parse", "HEAD") == done.document["commit"] == plain
    assert victim.text("rev-parse", "HEAD") == head
    assert victim.text("ls-files", "-s") == listed
    assert not victim.text("status", "--porcelain")


def test_git_am_makes_the_very_same_commits(
    tmp_path: Path, store: Store, upstream: Repository
) -> None:
    base = fetched(store, upstream)
    contents = series_of(upstream)
    patches = tuple(read(tmp_path, c, f"{n}.patch") for n, c in enumerate(contents))
    applied = apply_all(store, base, patches, ())
    upstream.git("reset", "--quiet", "--hard", base)

    mailbox = [str(tmp_path / "patches" / patch.path) for patch in patches]
    env = {"GIT_COMMITTER_NAME": IDENTITY[0], "GIT_COMMITTER_EMAIL": IDENTITY[1]}
    subprocess.run(
        ["git", *AM, *mailbox],
        cwd=upstream.root,
        env={**os.environ, **ISOLATED, **env},
        check=True,
        capture_output=True,
    )

    assert upstream.text("rev-parse", "HEAD^{tree}") == store.tree_of(applied.head)
    assert upstream.text("rev-parse", "HEAD") == applied.head
