# SPDX-License-Identifier: Apache-2.0
"""Who computes what vLLM asks DeepGEMM for on SM12x, and why: as `choice` for sparse MLA.

Those are the indexer's logits, DeepSeek V4's output projection and HyperConnection's GEMM.
`decide_gemm` is pure. Nothing here imports vLLM, torch or DeepGEMM.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from .choice import KNOB, Choice, Route, not_sm12x
from .flashinfer import release_of

SUBJECT = "Indexer logits, V4's output projection and HyperConnection's GEMM"
# The first vLLM that takes DeepGEMM to be for SM12x, and the first in which ours have no place: the
# DeepGEMM of each release from there on has the kernels.
CALLS_DEEP_GEMM = (0, 24)
WITHOUT_OURS = (0, 28)
# DeepGEMM compiles when it runs, from these: a6b593d has them, 891d57b and e21c821 don't.
KERNEL_SOURCE = Path("include", "deep_gemm", "impls", "sm120_fp8_paged_mqa_logits.cuh")
BUNDLED = Path("third_party", "deep_gemm")


@dataclass(frozen=True, kw_only=True)
class DeepGemm:
    """The DeepGEMM that vLLM would import. `kernels`: it has those for SM12x."""

    installed: bool
    kernels: bool


def find_deep_gemm() -> DeepGemm:
    """Look at DeepGEMM without importing it: a package of its own, else the one in vLLM's wheel."""
    try:
        spec = importlib.util.find_spec("deep_gemm")
    except ValueError:  # a stand-in that a test put into sys.modules
        spec = None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    folders = folders or [Path(__file__).parents[2] / BUNDLED]
    installed = any((folder / "__init__.py").is_file() for folder in folders)
    kernels = any((folder / KERNEL_SOURCE).is_file() for folder in folders)
    return DeepGemm(installed=installed, kernels=installed and kernels)


def decide_gemm(
    *,
    is_cuda: bool,
    capability: tuple[int, int] | None,
    forced: bool | None,
    calls_deep_gemm: bool,
    found: DeepGemm,
) -> Choice:
    """Choose for a device. `calls_deep_gemm`: vLLM takes DeepGEMM to be for SM12x, too.

    Where it does, weights are prepared for DeepGEMM, so the kernels alone aren't enough. `forced`
    is the knob of sparse MLA: 0 leaves upstream's code alone, whether it works or not. 1 says
    nothing here, for DeepGEMM serves either path's attention.
    """
    elsewhere = not_sm12x(is_cuda, capability)
    if elsewhere:
        return Choice(path=Route.UPSTREAM, why=elsewhere)
    objection = ""
    if not calls_deep_gemm:
        objection = "this vLLM doesn't use DeepGEMM on SM12x"
    elif not found.installed:
        objection = "DeepGEMM isn't installed"
    elif not found.kernels:
        objection = "this DeepGEMM has no kernels for SM12x"
    if not objection:
        return Choice(path=Route.UPSTREAM, why="DeepGEMM has kernels for SM12x")
    if forced is False:
        why = f"{KNOB} is 0, and {objection}"
        return Choice(path=Route.NONE, why=why, unexpected=True)
    return Choice(path=Route.TRITON, why=objection)


def decide_for_release(
    vllm_version: str,
    *,
    is_cuda: bool,
    capability: tuple[int, int] | None,
    forced: bool | None,
    found: DeepGemm,
) -> Choice:
    """Choose as a vLLM of this version will, without asking it. See `decide_gemm`."""
    release = release_of(vllm_version)
    choice = decide_gemm(
        is_cuda=is_cuda,
        capability=capability,
        forced=forced,
        calls_deep_gemm=release >= CALLS_DEEP_GEMM,
        found=found,
    )
    if choice.triton and release >= WITHOUT_OURS:
        why = f"{choice.why}, and from v0.28 on there is no other path"
        return Choice(path=Route.NONE, why=why, unexpected=True)
    return choice
