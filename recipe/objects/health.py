# SPDX-License-Identifier: Apache-2.0
"""Whether the object store is what git wrote, to the bit, and what can be saved where it isn't."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.ground.log import say
from recipe.objects.settings import ISOLATED

TRAILER = 20  # git ends a pack and its lists with the SHA-1 of what stands before
DAMAGED = "damaged"  # where files are moved that aren't used any more
# What can be had again: the archives are pinned by hash.
MADE_ANEW = ("refs/sm12x/sdist/", "refs/sm12x/folder/", "refs/sm12x/inner/")


def damaged(store: Path) -> list[Path]:
    """The files of the store that aren't what git wrote: packs, their lists, loose objects."""
    packs = sorted((store / "objects" / "pack").glob("pack-*"))
    bad = [p for p in packs if p.suffix in (".pack", ".idx", ".rev") and not ends_in_its_hash(p)]
    loose = sorted((store / "objects").glob("[0-9a-f][0-9a-f]/*"))
    names = [p for p in loose if len(p.name) == 2 * TRAILER - 2]
    return [*bad, *(path for path in names if not is_its_object(path))]


def check(store: Path) -> None:
    """Whether a git that failed has met objects that aren't what was written."""
    bad = damaged(store)
    if bad:
        raise SourceError(
            f"the object store is damaged: {bad[0]} isn't what git wrote"
            + (f", nor are {len(bad) - 1} others" if len(bad) > 1 else ""),
            means="A disk or somebody changed it. What it holds of releases is made anew from the "
            "pinned archives; what can be read of the rest is saved.",
            next="python build.py doctor --mend",
        )


def ends_in_its_hash(path: Path) -> bool:
    left = path.stat().st_size - TRAILER
    if left < 0:
        return False
    found = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as stream:
        while left and (block := stream.read(min(left, 1 << 20))):
            found.update(block)
            left -= len(block)
        return stream.read() == found.digest()


def is_its_object(path: Path) -> bool:
    try:
        content = zlib.decompress(path.read_bytes())
    except (zlib.error, OSError):
        return False
    digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return digest == path.parent.name + path.name


def mend(store: Path, bad: list[Path]) -> list[str]:
    """Save what can be read of damaged files and forget what is made anew; what was done.

    Call it with the store's lock held. Damaged files are kept aside, and used for nothing.
    """
    aside = store / DAMAGED
    aside.mkdir(exist_ok=True)
    done = []
    packs = {path.with_suffix(".pack") for path in bad if path.suffix != ""}
    for path in (one for one in bad if one.suffix == ""):
        path.replace(aside / (path.parent.name + path.name))
        done.append(f"put the object {path.parent.name}{path.name} aside")
    for pack in sorted(packs):
        for suffix in (".idx", ".rev", ".bitmap"):
            pack.with_suffix(suffix).unlink(missing_ok=True)
        if pack in bad:
            pack = pack.replace(aside / pack.name)
            salvage(store, pack)
            done.append(f"took what can be read out of {pack.name}")
        else:
            run.output(["git", "index-pack", str(pack)], env=env_of(store))
            done.append(f"listed {pack.name} anew")
    return done + forget_broken(store)


def salvage(store: Path, pack: Path) -> None:
    """Every object of a damaged pack that can still be read becomes a loose one."""
    try:
        run.output(
            ["git", "unpack-objects", "-r", "-q"], env=env_of(store), stdin=pack.read_bytes()
        )
    except run.CommandFailed as error:
        say(f"  {error.what[:200]}")  # it says what it couldn't read


def forget_broken(store: Path) -> list[str]:
    """Drop the names of trees that lack something and can be had again."""
    listed = run.output(["git", "for-each-ref", "--format=%(refname)"], env=env_of(store))
    done = []
    for ref in listed.decode().split():
        if is_connected(store, ref):
            continue
        if ref.startswith(MADE_ANEW):
            run.output(["git", "update-ref", "-d", ref], env=env_of(store))
            done.append(f"forgot {ref}, which is made anew at its next use")
        else:
            done.append(f"{ref} lacks objects that may come back with the sources")
    return done


def is_connected(store: Path, ref: str) -> bool:
    command = ["git", "rev-list", "--objects", "--quiet", ref]
    try:
        run.output(command, env=env_of(store))
        run.output(["git", "fsck", "--connectivity-only", "--no-dangling", ref], env=env_of(store))
    except run.CommandFailed:
        return False
    return True


def env_of(store: Path) -> dict[str, str]:
    return {**ISOLATED, "GIT_DIR": str(store)}
