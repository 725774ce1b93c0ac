# SPDX-License-Identifier: Apache-2.0
"""The steps of the suite that need no wheel; .pre-commit-config.yaml has the same."""

from __future__ import annotations

import sys
from pathlib import Path

from recipe.build import workers

OVERLAY = "overlay/vllm"  # the folder that `vllm.sm12x` is found in
PYTHON_CODE = ["build.py", "recipe", "tests", "overlay", "benchmarks", "tools"]


def steps(pytest: list[str], count: int = 1) -> dict[str, list[str]]:
    """The commands of the suite by name; pytest: what it is given in the place of all tests;
    count: how many workers it has."""
    module = [sys.executable, "-m"]
    # What takes long first: what is short then fills the workers to the end.
    tests = pytest or ["tests/integration", "tests/recipe"]
    lint_imports = str(Path(sys.executable).with_name("lint-imports"))
    return {
        "format": [*module, "ruff", "format", "--check", *PYTHON_CODE],
        "lint": [*module, "ruff", "check", *PYTHON_CODE],
        "imports": ["env", f"PYTHONPATH={OVERLAY}", lint_imports, "--no-cache", "--no-logo"],
        "types": [*module, "mypy"],
        "recipe": [*module, "pytest", *workers.options(count, tests), *tests],
    }
