# SPDX-License-Identifier: Apache-2.0
"""What the installed FlashInfer brings for sparse MLA on SM12x, told without importing it.

Importing it would start CUDA in a process that vLLM still forks. So its version decides, and where
nothing says a version, files that FlashInfer moved. Its kernels move with every minor
release: what isn't where it was in a version that was looked at is newer, and counts as serving.
The layers ask upstream's own classes once more before they are built.
"""

import ast
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

# The first with the kernels (the function is there without them before), the first in which two
# tiles can't take each other's barrier (flashinfer-ai #3700, #4732), and the first that takes
# models without RoPE. Read in the wheels: tests/overlay/flashinfer_wheels.json.
KERNELS_FROM = (0, 6, 14)
HANGS_BELOW = (0, 6, 18)
WITHOUT_ROPE_FROM = (0, 7)
EARLY = re.compile(r"v?[\d.]+?[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)\d*")
# The newest that was looked at. vLLM imports the functions of all up to here from this module.
LOOKED_AT, DECODE = (0, 7, 2), ("decode.py", "decode/__init__.py")
# Where nothing says a version: the first is there until after the kernels came, the second from
# then to 0.7.0, the third in 0.7.0 alone.
OLD_AUTOTUNER = Path("autotuner.py")
WRAPPER, PLAN = Path("mla", "_sparse_mla_sm120.py"), Path("mla", "_sparse_mla_sm120_plan.py")
VERSION_FILE = Path("_build_meta.py")
VERSION = re.compile(r"""^__version__\s*(?::\s*str\s*)?=\s*["']([^"']+)["']""", re.MULTILINE)
# A table up to 0.6.18; vLLM asks it from v0.28 on.
V4_TABLE = "_DECODE_DSV4_DISPATCH"


@dataclass(frozen=True, kw_only=True)
class FlashInfer:
    """The FlashInfer that is installed.

    `version` is None where nothing says it. `kernels`: nothing speaks against those for sparse MLA
    on SM12x. `hangs`: they can wait for each other for ever. `without_rope`: nothing speaks against
    models without RoPE. `problem`: why it can't be used, where it isn't installed properly.
    """

    version: str | None
    kernels: bool
    hangs: bool
    without_rope: bool = True
    problem: str = ""

    @property
    def name(self) -> str:
        """How a sentence calls it."""
        return f"FlashInfer {self.version}" if self.version else "this FlashInfer"

    @property
    def danger(self) -> str:
        """Why its kernels can hang, or nothing."""
        if not self.hangs:
            return ""
        if self.version and release_of(self.version) < HANGS_BELOW:
            return f"the SM12x kernels of {self.name} can hang"
        early = f"{self.name} is an early {_text(HANGS_BELOW)}"
        told = early if self.version else "this FlashInfer doesn't say its version"
        return f"{told}, and up to 0.6.17 its SM12x kernels can hang"

    def refuses(self, *, rope_dim: int) -> str:
        """Why it can't serve a model with `rope_dim` RoPE values a key, or nothing."""
        if self.problem:
            return self.problem
        if not self.kernels:
            return f"{self.name} has no sparse MLA for SM12x, which came with {_text(KERNELS_FROM)}"
        if rope_dim == 0 and not self.without_rope:
            since = _text(WITHOUT_ROPE_FROM)
            return f"{self.name} has no sparse MLA without RoPE, which came with {since}"
        return ""


def _text(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


def find_flashinfer() -> FlashInfer:
    """Look at the installed FlashInfer."""
    folders, problem = _look()
    return missing(problem) if problem else look_at(folders)


def missing(problem: str) -> FlashInfer:
    """Return one that can't be used, and why."""
    return FlashInfer(version=None, kernels=False, hangs=False, without_rope=False, problem=problem)


def look_at(folders: list[Path]) -> FlashInfer:
    """Judge a FlashInfer by the folders of its package."""
    version = _version(folders)
    autotuner, wrapper, plan = (
        any((folder / name).is_file() for folder in folders)
        for name in (OLD_AUTOTUNER, WRAPPER, PLAN)
    )
    kernels = _since(version, KERNELS_FROM, otherwise=wrapper or not autotuner)
    hangs = not _since(version, HANGS_BELOW, otherwise=plan or not wrapper)
    without_rope = _since(version, WITHOUT_ROPE_FROM, otherwise=plan or not wrapper)
    return FlashInfer(
        version=version,
        kernels=kernels,
        hangs=kernels and hangs,
        without_rope=kernels and without_rope,
    )


def _since(version: str | None, first: tuple[int, ...], *, otherwise: bool) -> bool:
    """Whether a version is `first` or newer; `otherwise` where its number doesn't tell.

    Whether an early one of that very release (0.6.18.dev1) has it, it doesn't.
    """
    release = release_of(version or "")
    same = (*release, 0, 0)[:3] == (*first, 0)[:3]
    if not release or (same and EARLY.match(version or "")):
        return otherwise
    return release >= first


def _look() -> tuple[list[Path], str]:
    """The folders of its package, and what is wrong with them."""
    try:
        spec = importlib.util.find_spec("flashinfer")
    except (ImportError, AttributeError, ValueError):  # a stand-in that a test put in sys.modules
        spec = None
    if spec is None:
        return [], "FlashInfer isn't installed"
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not spec.origin or not Path(spec.origin).is_file():
        return folders, "FlashInfer is installed in part: its package has no __init__.py"
    newer = release_of(_version(folders) or "") > LOOKED_AT
    if not newer and not any((folder / name).is_file() for folder in folders for name in DECODE):
        return folders, "FlashInfer is installed in part: its package has no decode.py"
    return folders, ""


def _version(folders: list[Path]) -> str | None:
    """What the package itself says, else its metadata; an editable one has both, or either."""
    for folder in folders:
        try:
            found = VERSION.search((folder / VERSION_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if found and _is_told(found[1]):
            return found[1]
    try:
        version: str | None = importlib.metadata.version("flashinfer-python")
    except (importlib.metadata.PackageNotFoundError, KeyError, OSError, ValueError):
        return None
    return version if version and _is_told(version) else None


def _is_told(version: str) -> bool:
    # 0.0.0 is what build tools write where they don't know.
    return any(release_of(version))


def flashinfer_v4_shapes() -> frozenset[tuple[int, int]] | None:
    """The (heads, window) that the installed FlashInfer decodes V4 for, read from its source.

    None where it has no such table: newer ones compute the answer.
    """
    return shapes_in(_look()[0])


def shapes_in(folders: list[Path]) -> frozenset[tuple[int, int]] | None:
    """The same for a package in `folders`."""
    for folder in folders:
        try:
            return _table_in((folder / WRAPPER).read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _table_in(source: str) -> frozenset[tuple[int, int]] | None:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and V4_TABLE in map(ast.unparse, node.targets):
            return _pairs(node.value)
    return None


def _pairs(value: ast.expr) -> frozenset[tuple[int, int]] | None:
    """The pairs of a set that is written out, as `{...}` or `frozenset({...})`, else None."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "frozenset" and value.args:
        value = value.args[0]
    try:
        pairs = ast.literal_eval(value)
    except (ValueError, TypeError):  # what no set can hold
        return None
    whole = isinstance(pairs, (set, list, tuple)) and all(
        isinstance(pair, tuple) and [type(number) for number in pair] == [int, int]
        for pair in pairs
    )
    return frozenset(pairs) if pairs and whole else None


def release_of(version: str) -> tuple[int, ...]:
    """Return the numbers a version starts with: 0.6.16.post3 and 0.6.16.dev1 are (0, 6, 16)."""
    found = re.match(r"v?(\d{1,18}(?:\.\d{1,18})*)(?!\d)", version)
    return tuple(int(number) for number in found.group(1).split(".")) if found else ()
