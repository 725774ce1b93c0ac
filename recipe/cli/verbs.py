# SPDX-License-Identifier: Apache-2.0
"""Every verb; one module each.

What is heavy is imported in the function that runs the verb, after its first line is out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recipe.cli.bases import add_bases
from recipe.cli.health.doctor import add_doctor
from recipe.cli.series.apply import add_apply
from recipe.cli.series.bisect import add_bisect
from recipe.cli.series.export import add_export
from recipe.cli.series.lint import add_lint
from recipe.cli.series.matrix import add_matrix
from recipe.cli.series.new import add_new
from recipe.cli.series.rebase import add_rebase
from recipe.cli.series.refresh import add_refresh
from recipe.cli.test import add_test
from recipe.cli.wheel.audit import add_audit
from recipe.cli.wheel.build import add_build
from recipe.cli.wheel.index import add_index
from recipe.cli.wheel.plan import add_plan
from recipe.cli.wheel.verify import add_verify

VERBS: dict[str, Callable[[Any, str], None]] = {
    "build": add_build,
    "plan": add_plan,
    "apply": add_apply,
    "export": add_export,
    "lint": add_lint,
    "matrix": add_matrix,
    "rebase": add_rebase,
    "refresh": add_refresh,
    "new": add_new,
    "bisect": add_bisect,
    "audit": add_audit,
    "index": add_index,
    "verify": add_verify,
    "bases": add_bases,
    "test": add_test,
    "doctor": add_doctor,
}
