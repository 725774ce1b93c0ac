# SPDX-License-Identifier: Apache-2.0
"""The worker's start: what it is asked to do is its one argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.mutants.worker.measure import measure
from benchmarks.mutants.worker.mutated import MUTANT
from benchmarks.mutants.worker.serve import serve


def main() -> None:
    asked = json.loads(sys.argv[1])
    os.environ.pop(MUTANT, None)
    match asked.pop("do"):
        case "measure":
            measure(Path(asked["folder"]), asked["rooms"], asked["options"])
        case "serve":
            serve(**asked)
