# SPDX-License-Identifier: Apache-2.0
"""What --native and its companions ask for."""

from __future__ import annotations

import argparse

from recipe.bases.releases import Base, Bases
from recipe.compile.inner.find import Series as InnerSeries
from recipe.compile.inner.given import parse_given
from recipe.compile.native.choice import parse_choice
from recipe.compile.native.wanted import NativeOptions
from recipe.compile.native.whole import CRATES
from recipe.ground.project import Project
from recipe.series.topics import resolve_series


def native_options(
    options: argparse.Namespace, project: Project, bases: Bases, base: Base
) -> NativeOptions:
    """What --native and its companions ask for."""
    known = {
        name for patch in resolve_series(project, bases, base).patches for name in patch.components
    }
    deepgemm = resolve_series(project, bases, base, "deepgemm")
    return NativeOptions(
        choice=parse_choice(options.native, {*base.components, *known}),
        given=parse_given(options.sources, [*(pin.name for pin in base.inner), CRATES]),
        series={"deepgemm": InnerSeries(patches=deepgemm.patches, files=deepgemm.files)},
        jobs=options.jobs,
        cache=options.compiler_cache,
        python=options.python,
        offline=options.offline,
    )
