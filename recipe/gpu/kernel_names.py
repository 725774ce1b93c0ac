# SPDX-License-Identifier: Apache-2.0
"""What family a kernel belongs to, by its mangled name.

The families people ask for are in a table. Every other kernel's family is its function's qualified
name without template arguments, which needs no demangler: a kernel is never a class member, so
nothing but namespaces stands before its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# No name is longer than its digits can say here: int() refuses thousands of them.
IDENTIFIER = re.compile(r"(?:L)?(\d{1,9})(?!\d)")
# Names a compiler made up per file, and namespaces that carry the list of architectures: two builds
# of one source differ in them.
LOCAL = re.compile(r"_GLOBAL__N_|_INTERNAL_")
VERSIONED = re.compile(r"(CUB|THRUST)_\d+_SM_[\d_]+")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A family by what its kernels' mangled names contain; component narrows it to one object."""

    family: str
    pattern: re.Pattern[str]
    component: str = ""


def rule(family: str, pattern: str, component: str = "") -> Rule:
    return Rule(family=family, pattern=re.compile(pattern), component=component)


MARLIN = "Marlin"
MARLIN_MOE = "Marlin-MoE"
SCALED_MM = "CUTLASS scaled_mm"
FP4_GEMM = "CUTLASS FP4 GEMM"
# The first that matches counts, so what is narrower stands first.
RULES = (
    rule("FlashMLA", "", "_flashmla_C"),
    rule("FlashMLA", "", "_flashmla_extension_C"),
    rule("FlashAttention 3", "cutlass13device_kernel|5flash", "_vllm_fa3_C"),
    rule("FlashAttention 2", "5flash", "_vllm_fa2_C"),
    rule(MARLIN_MOE, "^_ZN16marlin_moe_wna166MarlinI"),
    rule(MARLIN, "^_ZN6marlin6MarlinI"),
    rule("Machete", "7machete"),
    rule("QuTLASS", "GemmQuant|7qutlass", ""),
    rule("QuTLASS", "7cutlass", "_qutlass_C"),
    rule("CUTLASS MLA", "7cutlass.*FmhaMla"),
    rule(FP4_GEMM, "7cutlass.*(nv_float4_t|mx_float4_t|float_e2m1_t)"),
    rule("CUTLASS grouped GEMM", "7cutlass.*GroupProblemShape"),
    rule("CUTLASS W4A8 GEMM", "7cutlass.*(int4b_t|integer_subbyteILi4)"),
    rule(SCALED_MM, "^_ZN7cutlass(13device_kernel|7Kernel2|6Kernel)I"),
    rule("NVFP4 quantisation", "cvt_fp16_to_fp4|_nvfp4_"),
)
# vLLM's ScalarType::id() of Marlin's first template argument.
ACTIVATIONS = {
    1125899906910725: "fp16",
    1125899906909960: "bf16",
    1125899906909952: "int8",
    2814749767172868: "fp8",
}
MARLIN_ARGUMENT = re.compile(r"6MarlinI[lx]?L[lx](\d{1,20})E")


def family(mangled: str, component: str) -> str:
    """The family of a kernel that an object of this name holds."""
    for one in RULES:
        if one.component in ("", component) and one.pattern.search(mangled):
            return one.family + activation(mangled)
    return qualified(mangled)


def activation(mangled: str) -> str:
    """Marlin's kernels are compiled for each type of activations, with lists of their own."""
    found = MARLIN_ARGUMENT.search(mangled)
    name = ACTIVATIONS.get(int(found[1])) if found else None
    return f" ({name} activations)" if name else ""


def qualified(mangled: str) -> str:
    """``_ZN4vllm3moe8topKGateILi1EE...`` as ``vllm::moe::topKGate``; a C name as it is."""
    if not mangled.startswith("_Z"):
        return mangled
    at = 3 if mangled.startswith("_ZN") else 2
    parts = []
    while found := IDENTIFIER.match(mangled, at):
        at = found.end() + int(found[1])
        parts.append(mangled[found.end() : at])
        if not mangled.startswith("_ZN"):
            break
    plain = [VERSIONED.sub(r"\1", part) for part in parts if not LOCAL.match(part)]
    return "::".join(plain) or mangled
