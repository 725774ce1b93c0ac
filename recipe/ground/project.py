# SPDX-License-Identifier: Apache-2.0
"""The folders the recipe works in: a checkout and a cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Project:
    """A checkout of this repository and the cache it uses."""

    root: Path
    cache: Path

    @property
    def bases_file(self) -> Path:
        return self.root / "bases.toml"

    @property
    def series_file(self) -> Path:
        return self.root / "series.txt"

    @property
    def patches(self) -> Path:
        return self.root / "patches"

    @property
    def overlay(self) -> Path:
        return self.root / "overlay"

    @property
    def store(self) -> Path:
        """The object store: one bare git repository that holds every upstream tree."""
        return self.cache / "store.git"


def open_project() -> Project:
    """The checkout this module belongs to, with the cache the environment asks for."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = os.environ.get("SM12X_CACHE") or str(Path(home) / "vllm-sm12x")
    return Project(root=Path(__file__).resolve().parents[2], cache=Path(cache).resolve())
