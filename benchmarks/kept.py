# SPDX-License-Identifier: Apache-2.0
"""What was measured of compiled kernels, kept under a digest of all that decides it.

Compiling is the same every time for the same modules, compiler and tools, so a kept result may take
its place. One is only read if it was made of the same inputs and is what was written then.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# Whose modules decide what is compiled and how it is read.
OURS = ("vllm.sm12x", "benchmarks")
# Beginnings of the variables that Triton, LLVM, ptxas and the choice of tools read.
VARIABLES = (
    "TRITON_", "LLVM_", "MLIR_", "NVPTX_", "PTXAS_", "DISABLE_", "ENABLE_", "USE_", "CUOBJDUMP",
    "VLLM_SM12X_",
)  # fmt: skip
# They say where things lie, not what comes out.
PLACES = ("TRITON_CACHE_DIR", "TRITON_DUMP_DIR", "TRITON_HOME")


def digest(what: Iterable[str], files: Mapping[str, Path]) -> str:
    """SHA-256 over words, this Python, the variables above, and files by name and content."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(VARIABLES) and name not in PLACES
    }
    contents = {name: _sha256(path) for name, path in files.items()}
    inputs = [list(what), sys.version, platform.machine(), variables, contents]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def our_modules(loaded: Mapping[str, ModuleType]) -> Iterator[tuple[str, Path]]:
    """Name and file of the modules loaded that are ours; import what compiles and measures first.

    The command itself is not among them, for it has another name while it runs.
    """
    for name, module in sorted(loaded.items()):
        source = getattr(module, "__file__", None)
        if source and (name in OURS or name.startswith(tuple(f"{top}." for top in OURS))):
            yield name, Path(source)


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file of an installed package, but for bytecode that Python makes of others."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield path.relative_to(folder.parent).as_posix(), path


def read(folder: Path, inputs: str) -> Any:
    """What was kept for these inputs; None where nothing is or where it is damaged."""
    try:
        kept = json.loads((folder / f"{inputs}.json").read_text(encoding="utf-8"))
        found = kept["found"]
        return found if kept["proof"] == _proof(inputs, found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(folder: Path, inputs: str, found: Any) -> None:
    """Keep what JSON can hold, in one step: two runs may measure the same at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=folder, suffix=".part", delete=False
    ) as part:
        json.dump({"proof": _proof(inputs, found), "found": found}, part)
    Path(part.name).replace(folder / f"{inputs}.json")


def _proof(inputs: str, found: Any) -> str:
    return hashlib.sha256(f"{inputs}\n{json.dumps(found, sort_keys=True)}".encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
