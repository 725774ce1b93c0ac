# SPDX-License-Identifier: Apache-2.0
"""The series of v0.20.2 alone, rebased onto each release that followed: who decided which hunks.

python benchmarks/rehearsal.py [--from v0.20.2]; works on a copy, takes minutes. Where a rebase
stops, the committed series plays the person: its patch for that release is what they would have
made of the conflict, and its header says where they would have seen that upstream has the topic.
It ends with 1 if the series it arrives at makes another tree than the committed patches of the
same topics.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("as it was", "merged", "upstreamed", "by hand", "left out")
LATER = re.compile(r"^(Applied-Upstream|Not-Needed|Drop-When): .*\n", re.MULTILINE)


def build(root: Path, *words: str, expect: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """A command of build.py in a checkout: its JSON document."""
    command = [sys.executable, "build.py", *words, "--json"]
    env = dict(os.environ)
    if (root / "cache").is_dir():
        env["SM12X_CACHE"] = str(root / "cache")
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in expect:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}\n{done.stderr}")
    read = json.loads(done.stdout)
    assert isinstance(read, dict)
    return read


@dataclass(kw_only=True)
class Row:
    """What happened on one release: hunks by who decided them; topics that were missed; notes."""

    base: str
    hunks: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    same: bool = False


def begin(copy: Path, reference: Path, origin: str) -> None:
    """A checkout whose series is what applies on one release, for that release alone.

    `reference` has the committed patches of the same topics: what a person would arrive at.
    """
    rows = build(ROOT, "plan", "--base", origin)["patches"]
    topics = {row["topic"] for row in rows}
    for folder in (copy, reference):
        check_out(folder)
        keep(folder, [p for p in patches_of(folder) if topic_of(folder, p) in topics])
    fresh_store(copy)
    (reference / "cache").symlink_to(copy / "cache")
    kept = [row["path"] for row in rows]
    keep(copy, kept)
    for name in kept:
        path = copy / "patches" / name
        text = LATER.sub("", path.read_bytes().decode())
        text = re.sub(r"^Bases: .*$", f"Bases: =={origin[1:]}", text, count=1, flags=re.MULTILINE)
        path.write_bytes(text.encode())


def check_out(folder: Path) -> None:
    folder.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")


def patches_of(root: Path) -> list[str]:
    """The patches of series.txt, in its order."""
    lines = (root / "series.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def topic_of(root: Path, name: str) -> str:
    found = re.search(r"(?m)^Topic: (.*)$", (root / "patches" / name).read_bytes().decode())
    assert found is not None
    return found[1]


def keep(root: Path, names: list[str]) -> None:
    """Leave these patches in the series and no others."""
    for name in set(patches_of(root)) - set(names):
        (root / "patches" / name).unlink()
    (root / "series.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def fresh_store(copy: Path) -> None:
    """A cache with the trees that are imported already, and no memory of earlier rebases."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    used = Path(os.environ.get("SM12X_CACHE") or str(Path(home) / "vllm-sm12x"))
    (copy / "cache").mkdir()
    if (used / "store.git").exists():
        subprocess.run(["cp", "-r", str(used / "store.git"), str(copy / "cache")], check=True)
    store = ["git", f"--git-dir={copy / 'cache' / 'store.git'}"]
    listing = [*store, "for-each-ref", "--format=delete %(refname)", "refs/sm12x/resolved"]
    known = subprocess.run(listing, capture_output=True, check=True).stdout
    subprocess.run([*store, "update-ref", "--stdin"], input=known, check=True)


def pin(copy: Path, tags: list[str]) -> None:
    """The copy knows these releases and no later one, as on the day that the last one appeared."""
    head, *blocks = (ROOT / "bases.toml").read_text(encoding="utf-8").split("[[base]]\n")
    kept = [block for block in blocks if block.split('"', 2)[1] in tags]
    text = "[[base]]\n".join([head, *kept])
    (copy / "bases.toml").write_text(text, encoding="utf-8")


def step(copy: Path, reference: Path, origin: str, onto: str) -> Row:
    """Rebase onto one release, and give the answers that the committed series holds."""
    wanted = {row["topic"]: row for row in build(reference, "plan", "--base", onto)["topics"]}
    row = Row(base=onto)
    done = build(copy, "rebase", "--onto", onto, "--from", origin, expect=(0, 4))
    while done["state"] == "stopped":
        done = answer(copy, done, wanted, row)
    for patch in done["patches"]:
        count(row, patch)
        topic = wanted[patch["topic"]]
        if topic["state"] != "applies" and patch["commit"]:
            # The machine went on with a patch that a person had found to be upstream's by then.
            said = any(patch["patch"] in n and "taken it" in n for n in done["notes"])
            row.missed.append(patch["topic"] + (" (pointed out)" if said else ""))
            settle(copy, patch["topic"], onto, topic["state"])
    row.same = tree(copy, onto) == tree(reference, onto)
    return row


def answer(copy: Path, done: dict[str, Any], wanted: dict[str, Any], row: Row) -> dict[str, Any]:
    stop = done["stop"]
    topic = next(
        t
        for name, t in wanted.items()
        if stop["patch"].startswith(f"vllm/{name}")
        and re.fullmatch(rf"vllm/{name}(-[\d.]+)?\.patch", stop["patch"])
    )
    row.stops.append(f"{topic['topic']} ({stop['kind']})")
    if topic["state"] != "applies":
        return build(copy, "rebase", "--skip", topic["state"], expect=(0, 4))
    work = Path(stop["tree"])
    subprocess.run(["git", "reset", "--hard", "--quiet"], cwd=work, check=True)
    patch = ROOT / "patches" / topic["patch"]
    subprocess.run(["git", "apply", "--index", str(patch)], cwd=work, check=True)
    return build(copy, "rebase", "--continue", "--accept", stop["patch"], expect=(0, 4))


def count(row: Row, patch: dict[str, Any]) -> None:
    """Hunks of one patch, by who decided them."""
    hunks, taken = patch["hunks"], patch["taken"]
    if patch["decision"] == "header":
        return
    if patch["outcome"] in ("unchanged", "moved"):
        row.hunks["as it was"] += hunks
    elif patch["decision"] == "machine":
        row.hunks["upstreamed"] += taken
        row.hunks["merged"] += hunks - taken
    elif patch["commit"]:
        by_hand = min(max(patch["conflicts"], 1), hunks)
        row.hunks["by hand"] += by_hand
        row.hunks["merged"] += hunks - by_hand
    else:
        row.hunks["left out"] += hunks


def settle(copy: Path, topic: str, onto: str, state: str) -> None:
    """Write what a person would: the release that has the topic, into the newest file's header."""
    version = onto[1:]
    for path in sorted((copy / "patches").rglob("*.patch")):
        text = path.read_bytes().decode()
        if f"\nTopic: {topic}\n" not in text:
            continue
        lines = [f"<{version}" if part.startswith("<") else part for part in bases_of(text)]
        if not any(part.startswith("<") for part in lines):
            lines.append(f"<{version}")
        said = (
            f"Applied-Upstream: {version}" if state == "upstreamed" else f"Not-Needed: >={version}"
        )
        head, _, rest = text.partition("\nTests: ")
        head = re.sub(
            r"(?m)^Bases: .*$", f"Bases: {','.join(lines)}", LATER.sub("", head + "\n").rstrip("\n")
        )
        parts = head.partition("\nComponents: ")
        path.write_bytes(f"{parts[0]}\n{said}{parts[1]}{parts[2]}\nTests: {rest}".encode())


def bases_of(text: str) -> list[str]:
    found = re.search(r"(?m)^Bases: (.*)$", text)
    assert found is not None
    return found[1].replace("==", ">=").split(",")


def tree(root: Path, tag: str) -> str:
    """The id of the tree that a checkout's series and overlay make of a release."""
    with tempfile.TemporaryDirectory(prefix="sm12x-tree-") as name:
        folder = Path(name) / "tree"
        build(root, "apply", "--base", tag, "--tree", str(folder))
        command = ["git", "-C", str(folder), "rev-parse", "HEAD^{tree}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def print_row(row: Row) -> None:
    cells = " | ".join(str(row.hunks[name]) for name in COLUMNS)
    missed = ", ".join(row.missed) or "none"
    stops = ", ".join(row.stops) or "none"
    same = "yes" if row.same else "NO"
    print(f"| {row.base} | {cells} | {stops} | {missed} | {same} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--from", dest="origin", default="v0.20.2")
    options = parser.parse_args()
    tags = [row["tag"] for row in build(ROOT, "bases")["bases"]]
    tags = tags[tags.index(options.origin) :]
    with tempfile.TemporaryDirectory(prefix="sm12x-rehearsal-") as name:
        copy, reference = Path(name) / "copy", Path(name) / "reference"
        begin(copy, reference, options.origin)
        rows: list[Row] = []
        print(f"| release | {' | '.join(COLUMNS)} | stops | seen by a person only | same tree |")
        print("|---" * (len(COLUMNS) + 4) + "|")
        for origin, onto in pairwise(tags):
            pin(copy, tags[: tags.index(onto) + 1])
            rows.append(step(copy, reference, origin, onto))
            print_row(rows[-1])
    total = sum((row.hunks for row in rows), Counter[str]())
    print(json.dumps({"from": options.origin, "hunks": total, "releases": len(rows)}))
    return 0 if all(row.same for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
