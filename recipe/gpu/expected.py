# SPDX-License-Identifier: Apache-2.0
"""What upstream's builds have code for, so that an audit can tell a gap from a choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recipe.gpu.kernel_names import FP4_GEMM, MARLIN, MARLIN_MOE, SCALED_MM

SM12X = "12"


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The majors of the devices a component is written for; why it has nothing for others."""

    majors: tuple[str, ...]
    why: str


FLASH_MLA = Reach(majors=("9", "10"), why="FlashMLA is written for SM90 and SM100")

# Components whose architecture list names no 12.x on any base so far; the tests hold those of them
# whose list is in vLLM's own tree against it. One that isn't here should serve every device.
REACH = {
    "_flashmla_C": FLASH_MLA,
    "_flashmla_extension_C": FLASH_MLA,
    "_deepselect_C": Reach(majors=("10",), why="DeepSelect is written for SM100"),
    "_vllm_fa3_C": Reach(majors=("9",), why="FlashAttention 3 is written for SM90"),
}

# Families of kernels that upstream has for SM12x on every base from v0.20.0 on: where a wheel has
# them for other devices only, its build left them out.
REQUIRED = (MARLIN, MARLIN_MOE, SCALED_MM, FP4_GEMM)

# Families whose PTX for sm_80 the driver compiles for SM12x without complaint, to wrong numbers.
WRONG_FROM_PTX = (MARLIN, MARLIN_MOE)

# Marlin has sources of its own for Turing, which upstream compiles for 7.5 alone beside the others.
TURING = "7"

# It has nothing for SM12x up to v0.23, vLLM does without it, and nothing of it is in machine code.
OPTIONAL = ("_deep_gemm_C",)


def by_design(component: str, major: str) -> str:
    """Why a component has no code for devices of this major; empty if it should have some."""
    reach = REACH.get(component)
    return reach.why if reach and major not in reach.majors else ""


def may_be_absent(component: str, major: str) -> bool:
    """Whether a build for devices of this major alone may do without the component."""
    return component in OPTIONAL or bool(by_design(component, major))


def left_out(family: str, targets: Iterable[str]) -> bool:
    """Whether a translation unit with Marlin for these targets only is a gap on SM12x."""
    own = all(target.partition(".")[0] == TURING for target in targets)
    return is_one_of(family, WRONG_FROM_PTX) and not own


def is_one_of(family: str, named: tuple[str, ...]) -> bool:
    """Marlin's families say their activations in brackets."""
    return family.partition(" (")[0] in named
