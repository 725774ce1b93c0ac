# SPDX-License-Identifier: Apache-2.0
"""Which sparse MLA path a model takes on a device, and why: decided here and nowhere else.

`decide` is pure. Seams gather its arguments from vLLM; `vllm_refuses` and `flashinfer` tell what a
vLLM release and the installed FlashInfer bring. Nothing here imports vLLM, torch or FlashInfer.
"""

import logging
from dataclasses import dataclass
from enum import Enum

from .flashinfer import release_of

KNOB = "VLLM_TRITON_MLA_SPARSE"
FAMILY = 12
# The RoPE widths that the kernels of each layout are written for.
ROPE_DIMS = {"V4": (64,), "V3.2": (64, 0)}

# The first vLLM that calls FlashInfer for sparse MLA on SM12x.
CALLS_FLASHINFER = (0, 24)
# The newest that was looked at, and what its path for V3.2 and GLM wants, as all before do.
LOOKED_AT, V32_TOPK = (0, 33), 2048
# The first whose sparse indexer picks from a context that ranks share.
SHARES_CONTEXTS = (0, 25)
NO_PATH = "this vLLM has no sparse MLA for SM12x of its own"
# The first whose kernel that writes the packed cache puts up with an absent RoPE part.
WRITES_WITHOUT_ROPE = (0, 31)


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


def decide(
    *,
    is_cuda: bool,
    capability: tuple[int, int] | None,
    forced: bool | None,
    refusal: str,
    danger: str,
    lacks: str,
) -> Choice:
    """Choose for a model.

    `is_cuda`: the platform is NVIDIA's (not ROCm, not a CPU); `capability` (major, minor) or None
    where it can't be told. `forced` is the knob: None decides by itself. `refusal`: why upstream's
    FlashInfer path can't serve this model on SM12x, as far as was found out; nothing where it can.
    `danger`: why its kernels can hang, or nothing. `lacks`: why the Triton path can't serve it.

    Other devices are upstream's, whatever the knob says. On SM12x, FlashInfer is the better path
    where it works. Where it can hang, Triton is taken: it may be slower, but a hang stops the
    server without an error, and prompts of a few thousand tokens are enough on GB10.
    """
    elsewhere = not_sm12x(is_cuda, capability)
    if elsewhere:
        asked = f"; {KNOB}=1 has no effect there" if forced else ""
        return Choice(path=Route.UPSTREAM, why=f"{elsewhere}{asked}", unexpected=bool(forced))
    if lacks:
        return _without_triton(lacks, refusal, unexpected=forced is True)
    if forced is False:
        return _without_triton(f"{KNOB} is 0", refusal, unexpected=False)
    if forced:
        return Choice(path=Route.TRITON, why=f"{KNOB} is 1")
    if refusal:
        return Choice(path=Route.TRITON, why=refusal)
    if danger:
        return Choice(path=Route.TRITON, why=f"{danger} ({KNOB}=0 takes them nevertheless)")
    why = f"nothing speaks against FlashInfer for this model ({KNOB}=1 takes Triton instead)"
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


def triton_lacks(*, layout: Cache, rope_dim: int) -> str:
    """Why the Triton path can't serve a model, or nothing."""
    if rope_dim not in ROPE_DIMS[layout.value]:
        return f"the Triton kernels have no RoPE of {rope_dim} for {layout.value}"
    return ""


def sharing_refused(vllm_version: str, *, layout: Cache) -> str:
    """Why no path of a vLLM of this version serves contexts that ranks share, or nothing.

    That is decode context parallelism: each rank holds a part of every context's keys. A release
    newer than those looked at refuses nothing.
    """
    release = release_of(vllm_version)
    if not release or release[:2] > LOOKED_AT:
        return ""
    if layout is Cache.V4:
        return "vLLM doesn't share sliding windows among ranks, and DeepSeek V4 has them"
    if release < SHARES_CONTEXTS:
        return "up to v0.24 vLLM's sparse indexer doesn't pick from a context that ranks share"
    return ""


def cannot_share(ranks: int, why: str) -> ValueError:
    """Return the error for ranks that are to share contexts where nobody can serve that."""
    return ValueError(
        f"--decode-context-parallel-size {ranks} can't be served on SM12x: {why}. Each rank would "
        "see a part of a context, and nothing would put the parts together. "
        "Type --decode-context-parallel-size 1."
    )


def vllm_refuses(vllm_version: str, *, layout: Cache, index_topk: int, rope_dim: int) -> str:
    """Why vLLM's FlashInfer path of this version can't serve a model on SM12x, or nothing.

    For who can't ask vLLM's own check. A release newer than those looked at refuses nothing.
    """
    release = release_of(vllm_version)
    if not release or release[:2] > LOOKED_AT:
        return ""
    if release < CALLS_FLASHINFER:
        return NO_PATH
    if layout is Cache.V32 and index_topk != V32_TOPK:
        return f"vLLM's FlashInfer path wants {V32_TOPK} picks a row, the model has {index_topk}"
    return cache_refuses(vllm_version, rope_dim=rope_dim)


def cache_refuses(vllm_version: str, *, rope_dim: int) -> str:
    """Why vLLM of this version can't write the packed cache, which its check doesn't ask."""
    release = release_of(vllm_version)
    if rope_dim == 0 and release and release < WRITES_WITHOUT_ROPE:
        return "this vLLM's kernel that writes the packed cache wants a RoPE part"
    return ""


def sinks_refused(vllm_version: str, *, sinks: bool) -> str:
    """Why vLLM's FlashInfer path of this version would serve a model with sinks wrong, or nothing.

    That of V3.2's cache has no place for them. A release newer than those looked at may have one.
    """
    if sinks and release_of(vllm_version)[:2] <= LOOKED_AT:
        return "vLLM's FlashInfer path would leave the model's attention sinks out"
    return ""


def _without_triton(reason: str, refusal: str, *, unexpected: bool) -> Choice:
    if refusal:
        return Choice(path=Route.NONE, why=f"{reason}, and {refusal}", unexpected=True)
    return Choice(path=Route.UPSTREAM, why=reason, unexpected=unexpected)


def calls_flashinfer(vllm_version: str) -> bool:
    """Whether a vLLM of this version has a FlashInfer path for sparse MLA on SM12x."""
    return release_of(vllm_version) >= CALLS_FLASHINFER


_said: set[tuple[str, Choice]] = set()


def describe_once(choice: Choice, log: logging.Logger, subject: str = "Sparse MLA path") -> None:
    """Say a choice in one line, once in a process: every layer of a model makes the same one."""
    if (subject, choice) in _said:
        return
    _said.add((subject, choice))
    level = logging.WARNING if choice.unexpected else logging.INFO
    names = {Route.TRITON: "Triton", Route.UPSTREAM: "upstream's", Route.NONE: "none"}
    log.log(level, "%s: %s, because %s.", subject, names[choice.path], choice.why)
