# SPDX-License-Identifier: Apache-2.0
"""Which sparse MLA path a model takes on a device, and why: decided here and nowhere else.

`decide` is pure. Seams gather its arguments from vLLM; `find_flashinfer` and `calls_flashinfer`
tell what FlashInfer and a vLLM release bring. Nothing here imports vLLM, torch or FlashInfer.
"""

import ast
import importlib.metadata
import importlib.util
import logging
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

KNOB = "VLLM_TRITON_MLA_SPARSE"
FAMILY = 12
# vLLM's own SM12x path for V3.2 and GLM refuses any other number of picks, on all releases.
V32_TOPK = 2048
# The RoPE widths that the kernels of each layout are written for.
ROPE_DIMS = {"V4": (64,), "V3.2": (64, 0)}

# The first vLLM that calls FlashInfer for sparse MLA on SM12x.
CALLS_FLASHINFER = (0, 24)
# FlashInfer 0.6.14 is the first with the kernels (the function is there without them before), and
# 0.6.18 the first in which two tiles can't take each other's barrier (flashinfer-ai #3700, #4732).
HANGS_BELOW = (0, 6, 18)
KERNEL_SOURCE = Path("data", "csrc", "sparse_mla_sm120.cu")
# What vLLM asks of from v0.29 on.
V4_TABLE_SOURCE, V4_TABLE = Path("mla", "_sparse_mla_sm120.py"), "_DECODE_DSV4_DISPATCH"


class Route(str, Enum):
    """Who computes sparse attention. With NONE nobody can; upstream is left to say so."""

    TRITON = "triton"
    UPSTREAM = "upstream"
    NONE = "none"


class Cache(str, Enum):
    """Whose cache layout a model has; the values are the names of `layouts`."""

    V4 = "V4"
    V32 = "V3.2"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A path and one sentence that says why. `unexpected` is worth a warning in the log."""

    path: Route
    why: str
    unexpected: bool = False

    @property
    def triton(self) -> bool:
        """Whether a seam should be entered at all."""
        return self.path is Route.TRITON


@dataclass(frozen=True, kw_only=True)
class FlashInfer:
    """The FlashInfer that is installed.

    `version` is None where nothing says it. `kernels`: it has those for sparse MLA on SM12x.
    `hangs`: they can wait for each other for ever.
    """

    version: str | None
    kernels: bool
    hangs: bool


def decide(
    *,
    is_cuda: bool,
    capability: tuple[int, int] | None,
    forced: bool | None,
    layout: Cache,
    index_topk: int,
    rope_dim: int,
    calls_flashinfer: bool,
    has_flashinfer_kernels: bool,
    flashinfer_hangs: bool,
) -> Choice:
    """Choose for a model with `layout`, `index_topk` picks a row and `rope_dim` RoPE values a key.

    `is_cuda`: the platform is NVIDIA's (not ROCm, not a CPU); `capability` (major, minor) or None
    where it can't be told. `forced` is the knob: None decides by itself. `calls_flashinfer`: this
    vLLM has a FlashInfer path for SM12x. `has_flashinfer_kernels`: FlashInfer has kernels that
    serve this model; for V4, which it serves in certain shapes only, a seam asks vLLM's own check.
    `flashinfer_hangs`: those kernels can wait for each other for ever.

    Other devices are upstream's, whatever the knob says. On SM12x, FlashInfer is the better path
    where it works. Where it can hang, Triton is taken: it may be slower, but a hang stops the
    server without an error, and prompts of a few thousand tokens are enough on GB10.
    """
    elsewhere = not_sm12x(is_cuda, capability)
    if elsewhere:
        asked = f"; {KNOB}=1 has no effect there" if forced else ""
        return Choice(path=Route.UPSTREAM, why=f"{elsewhere}{asked}", unexpected=bool(forced))
    objection = _flashinfer_objection(
        layout, index_topk, rope_dim, calls_flashinfer, has_flashinfer_kernels
    )
    if rope_dim not in ROPE_DIMS[layout.value]:
        reason = f"the Triton kernels have no RoPE of {rope_dim} for {layout.value}"
        return _without_triton(reason, objection, unexpected=forced is True)
    if forced is False:
        return _without_triton(f"{KNOB} is 0", objection, unexpected=False)
    if forced:
        return Choice(path=Route.TRITON, why=f"{KNOB} is 1")
    if objection:
        return Choice(path=Route.TRITON, why=objection)
    if flashinfer_hangs:
        why = f"this FlashInfer's SM12x kernels can hang ({KNOB}=0 takes them nevertheless)"
        return Choice(path=Route.TRITON, why=why)
    why = f"FlashInfer serves this model on SM12x ({KNOB}=1 takes Triton instead)"
    return Choice(path=Route.UPSTREAM, why=why)


def not_sm12x(is_cuda: bool, capability: tuple[int, int] | None) -> str:
    """Say why a device is none of ours, or nothing."""
    if not is_cuda:
        return "the platform isn't CUDA"
    if capability is None:
        return "the device's capability is unknown"
    if capability[0] != FAMILY:
        return f"the device's capability is {capability[0]}.{capability[1]}, not 12.x"
    return ""


def _flashinfer_objection(
    layout: Cache, index_topk: int, rope_dim: int, calls_flashinfer: bool, has_kernels: bool
) -> str:
    """What keeps upstream from serving a model on SM12x, or nothing."""
    if not calls_flashinfer:
        return "this vLLM has no sparse MLA for SM12x of its own"
    if not has_kernels:
        return "FlashInfer has no SM12x kernels for this model"
    if rope_dim == 0:
        return "vLLM's FlashInfer path has no SM12x form for models without RoPE"
    if layout is Cache.V32 and index_topk != V32_TOPK:
        return f"vLLM's FlashInfer path wants {V32_TOPK} picks a row, the model has {index_topk}"
    return ""


def _without_triton(reason: str, objection: str, *, unexpected: bool) -> Choice:
    if objection:
        return Choice(path=Route.NONE, why=f"{reason}, and {objection}", unexpected=True)
    return Choice(path=Route.UPSTREAM, why=reason, unexpected=unexpected)


def find_flashinfer() -> FlashInfer:
    """Look at the installed FlashInfer without importing it, which would take seconds."""
    folders = _flashinfer_folders()
    try:
        version = importlib.metadata.version("flashinfer-python") if folders else None
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        version = None
    kernels = any((folder / KERNEL_SOURCE).is_file() for folder in folders)
    hangs = kernels and (version is None or release_of(version) < HANGS_BELOW)
    return FlashInfer(version=version, kernels=kernels, hangs=hangs)


def _flashinfer_folders() -> list[Path]:
    try:
        spec = importlib.util.find_spec("flashinfer")
    except ValueError:  # a stand-in that a test put into sys.modules
        spec = None
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def flashinfer_v4_shapes() -> frozenset[tuple[int, int]] | None:
    """The (heads, window) that the installed FlashInfer decodes V4 for, read from its source.

    None where it has no such table. Importing FlashInfer would start CUDA in a process that forks.
    """
    for folder in _flashinfer_folders():
        path = folder / V4_TABLE_SOURCE
        if path.is_file():
            return _table_in(path.read_text(encoding="utf-8"))
    return None


def _table_in(source: str) -> frozenset[tuple[int, int]] | None:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and V4_TABLE in map(ast.unparse, node.targets):
            pairs = [one for one in ast.walk(node.value) if isinstance(one, ast.Tuple)]
            return frozenset(ast.literal_eval(pair) for pair in pairs)
    return None


def calls_flashinfer(vllm_version: str) -> bool:
    """Whether a vLLM of this version has a FlashInfer path for sparse MLA on SM12x."""
    return release_of(vllm_version) >= CALLS_FLASHINFER


def release_of(version: str) -> tuple[int, ...]:
    """Return the numbers a version starts with: 0.6.16.post3 and 0.6.16.dev1 are (0, 6, 16)."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(number) for number in found.group(1).split(".")) if found else ()


_said: set[tuple[str, Choice]] = set()


def describe_once(choice: Choice, log: logging.Logger, subject: str = "Sparse MLA path") -> None:
    """Say a choice in one line, once in a process: every layer of a model makes the same one."""
    if (subject, choice) in _said:
        return
    _said.add((subject, choice))
    level = logging.WARNING if choice.unexpected else logging.INFO
    names = {Route.TRITON: "Triton", Route.UPSTREAM: "upstream's", Route.NONE: "none"}
    log.log(level, "%s: %s, because %s.", subject, names[choice.path], choice.why)
