# SPDX-License-Identifier: Apache-2.0
"""What is said before a plan or a build about settings that would otherwise surprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# What upstream's setup.py reads from the environment, and which option says it here. The caller's
# environment is no input of a build: two people would get other wheels from one command.
UNREAD = {
    "TORCH_CUDA_ARCH_LIST": "--arch",
    "CUDAARCHS": "--arch",
    "MAX_JOBS": "--jobs",
    "NVCC_THREADS": "--jobs",
    "CMAKE_BUILD_PARALLEL_LEVEL": "--jobs",
    "CMAKE_ARGS": "",
    "VLLM_TARGET_DEVICE": "",
    "VLLM_USE_PRECOMPILED": "--native none",
    "VLLM_CUTLASS_SRC_DIR": "--sources cutlass=DIR",
    "DEEPGEMM_SRC_DIR": "--sources deepgemm=DIR",
    "FLASH_MLA_SRC_DIR": "--sources flashmla=DIR",
    "VLLM_FLASH_ATTN_SRC_DIR": "--sources vllm-flash-attn=DIR",
    "QUTLASS_SRC_DIR": "--sources qutlass=DIR",
    "TRITON_KERNELS_SRC_DIR": "--sources triton_kernels=DIR",
}
SPARK = "12.1"


def unread(environment: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable that upstream's build reads and this one doesn't."""
    for name, option in UNREAD.items():
        if name in environment:
            instead = f"{option} says it" if option else "there is no option for it"
            yield f"note: {name} in the environment isn't read here; {instead}"


def other_machine(arch: str, platform: str, machine: str) -> Iterator[str]:
    """A line where a list for GB10 alone meets a wheel that no DGX Spark can install."""
    wanted = [part for part in arch.replace(",", ";").split(";") if part]
    for_spark = bool(wanted) and all(part.strip().startswith(SPARK) for part in wanted)
    built_for = machine if platform == "auto" else platform
    if for_spark and "aarch64" not in built_for:
        yield (
            f"note: a DGX Spark ({SPARK}) is aarch64 and this is a wheel for {built_for}; "
            "for a Spark, say --platform aarch64"
        )
