# SPDX-License-Identifier: Apache-2.0
"""What the commits of a tree make of the series, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from packaging.version import Version

from recipe.bases.releases import Base, Bases
from recipe.ground.errors import ApplyError, ConfigError, UsageError
from recipe.objects.git import Store
from recipe.series.edit.commits import Commit, Tree, patch_of
from recipe.series.file import insert_after
from recipe.series.header import bounded_below, clauses, range_text, release_text, set_trailer
from recipe.series.patch import Patch, parse_patch
from recipe.series.topics import has_it
from recipe.series.tree import apply_one


class Action(StrEnum):
    """written: the file anew. new: a file there was not. bounded: only its Bases end earlier."""

    WRITTEN = "written"
    NEW = "new"
    BOUNDED = "bounded"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The series as it would be: its patches and the text of series.txt.

    actions: by path, what becomes of a file; one that isn't named stays as it is. origins: by
    path, the commit that it comes from. last: the patch of the last commit that was read.
    """

    patches: tuple[Patch, ...]
    text: str
    actions: Mapping[str, Action] = field(default_factory=dict)
    origins: Mapping[str, Commit] = field(default_factory=dict)
    last: str | None = None

    def position(self, path: str | None) -> int:
        return next((i for i, patch in enumerate(self.patches) if patch.path == path), -1)

    def with_patch(self, patch: Patch, action: Action, origin: Commit | None) -> Draft:
        """The draft with this patch in the place of the one of its path."""
        place = self.position(patch.path)
        return replace(
            self,
            patches=(*self.patches[:place], patch, *self.patches[place + 1 :]),
            actions={**self.actions, patch.path: self.actions.get(patch.path, action)},
            origins=self.origins if origin is None else {**self.origins, patch.path: origin},
        )

    def with_new(self, patch: Patch, after: str | None, origin: Commit) -> Draft:
        """The draft with a new patch after `after`, or first of all."""
        if self.position(patch.path) >= 0:
            raise ConfigError(
                f"patches/{patch.path} would be the file of {origin}, and exists",
                means="It is of another topic, or of this one for other releases.",
                next="give the commit another Topic or another range in Bases",
            )
        place = self.position(after) + 1
        return replace(
            self,
            patches=(*self.patches[:place], patch, *self.patches[place:]),
            text=insert_after(self.text, after, patch.path),
            actions={**self.actions, patch.path: Action.NEW},
            origins={**self.origins, patch.path: origin},
            last=patch.path,
        )


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the commits of a tree into a draft. here: the patches of the series on its base."""

    store: Store
    bases: Bases
    tree: Tree
    here: tuple[Patch, ...]
    upstream: str

    def read(self, draft: Draft) -> Draft:
        seen: dict[str, Commit] = {}
        for commit in self.tree.commits:
            if commit.topic is None:
                continue
            if commit.topic in seen:
                raise UsageError(
                    f"{commit} has the topic of {seen[commit.topic]}: {commit.topic}",
                    means="A patch is one commit.",
                    next=f"git -C {self.tree.root} rebase -i base-{self.tree.base.tag}, "
                    "and make one a fixup of the other",
                )
            seen[commit.topic] = commit
            draft = self.read_commit(draft, commit)
        return draft

    def read_commit(self, draft: Draft, commit: Commit) -> Draft:
        match = next((patch for patch in self.here if patch.topic == commit.topic), None)
        if match is None:
            return self.read_new(draft, commit)
        if draft.position(match.path) < draft.position(draft.last):
            raise UsageError(
                f"{commit} comes after {draft.last} in the tree, and before it in series.txt",
                means="The order of the commits is the order of the series.",
                next=f"git -C {self.tree.root} rebase -i base-{self.tree.base.tag}, and move it; "
                "or move its line in series.txt",
            )
        draft = replace(draft, last=match.path)
        if gives(self.store, match, commit):
            return draft
        patch = patch_of(self.store, self.tree, commit, match.path)
        self.check_base(commit, patch)
        start = self.split_at(match, patch)
        if start is None:
            return draft.with_patch(patch, Action.WRITTEN, commit)
        path = f"{self.upstream}/{patch.topic}-{release_text(start)}.patch"
        bases = range_text(bounded_below(match.bases, start))
        bounded = parse_patch(match.path, set_trailer(match.content, "Bases", bases))
        draft = draft.with_patch(bounded, Action.BOUNDED, None)
        return draft.with_new(replace(patch, path=path), match.path, commit)

    def read_new(self, draft: Draft, commit: Commit) -> Draft:
        files = [patch for patch in draft.patches if patch.topic == commit.topic]
        if files:
            raise ConfigError(
                f"{commit}: no file of the topic {commit.topic} is for {self.tree.base.tag}, "
                f"see patches/{files[0].path}",
                means="Its header says that upstream has it there, or that it isn't needed.",
                next="mend Bases, Applied-Upstream or Not-Needed there, or give the commit "
                "another Topic",
            )
        path = f"{self.upstream}/{commit.topic}.patch"
        patch = patch_of(self.store, self.tree, commit, path)
        self.check_base(commit, patch)
        # The files of one topic stand together, whichever of them is on this base.
        before = draft.position(draft.last)
        topic = draft.patches[before].topic if before >= 0 else None
        after = [one.path for one in draft.patches[max(before, 0) :] if one.topic == topic]
        return draft.with_new(patch, after[-1] if after else None, commit)

    def check_base(self, commit: Commit, patch: Patch) -> None:
        if not patch.bases.contains(self.tree.base.version):
            raise ConfigError(
                f"{commit}: Bases: {patch.bases} leaves out {self.tree.base.tag}, "
                "the base of the tree",
                means="Nothing was written.",
                next=f"{self.tree.reword(commit)}, to mend Bases",
            )

    def split_at(self, old: Patch, new: Patch) -> Version | None:
        """Where `new` starts, if it leaves the first releases of `old` to `old`."""
        releases = self.bases.releases
        left = [b for b in releases if old.bases.contains(b.version) and not settles(new, b)]
        first = next(base for base in releases if new.bases.contains(base.version))
        if not left or any(base.version > first.version for base in left):
            return None
        named = [Version(one.version) for one in clauses(new.bases) if one.operator == ">="]
        return max(named, default=first.version)


def settles(patch: Patch, base: Base) -> bool:
    """Whether the header alone says what the topic is on the base."""
    spared = patch.not_needed is not None and patch.not_needed.contains(base.version)
    return patch.bases.contains(base.version) or has_it(patch, base.version) or spared


def gives(store: Store, patch: Patch, commit: Commit) -> bool:
    """Whether the patch, applied where the commit was made, makes that commit."""
    with store.index(commit.parent) as index:
        try:
            apply_one(store, index, patch)
        except ApplyError:
            return False
        tree = store.git("write-tree", index=index).decode().strip()
    made = store.commit(
        tree, commit.parent, message=patch.message, author=patch.author, date=patch.date
    )
    return store.format_patch(made) == store.format_patch(commit.id)
