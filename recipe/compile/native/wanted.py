# SPDX-License-Identifier: Apache-2.0
"""What is wanted of the compiled extensions of a planned wheel, and what they are compiled from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recipe.bases.releases import Archive, Base
from recipe.compile.deepgemm import DeepGemm
from recipe.compile.inner.find import Series
from recipe.compile.inner.given import Given
from recipe.compile.native.choice import Choice
from recipe.series.tree import Applied
from recipe.wheel.components import Component


@dataclass(frozen=True, kw_only=True)
class NativeOptions:
    """What the command line asks of a compile. python: 3.N, None for this one."""

    choice: Choice
    given: Given = field(default_factory=Given)
    series: Mapping[str, Series] = field(default_factory=dict)
    jobs: int | None = None
    cache: str = "auto"
    python: str | None = None
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """A patched tree to compile from, and how. arch_list: TORCH_CUDA_ARCH_LIST, asked: its parts.

    inner_series: what goes on inner sources. jobs: compilers at once, None to choose. cache: which
    compiler cache.
    """

    base: Base
    applied: Applied
    asked: tuple[str, ...]
    given: Given = field(default_factory=Given)
    inner_series: Mapping[str, Series] = field(default_factory=dict)
    jobs: int | None = None
    cache: str = "auto"
    offline: bool = False

    @property
    def arch_list(self) -> str:
        return ";".join(self.asked)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The extensions of a planned wheel.

    declared: each with what the patches say of it. python: 3.N, None for this one. published:
    upstream's wheel for the machine. version: the planned wheel's.
    """

    job: Job
    choice: Choice
    python: str | None
    declared: tuple[Component, ...]
    deepgemm: DeepGemm
    published: Archive
    machine: str
    version: str
