# SPDX-License-Identifier: Apache-2.0
"""Every environment variable of the overlay, in one table.

Works alone (`get`) and inside vLLM (`register`, called by one seam at the end of `vllm/envs.py`,
while vLLM is being imported: nothing here may import vLLM before it is asked for a value).
"""

import functools
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from .values import choice, count, flag, gibibytes, one_of
from .variable import EnvVar, Origin, Reading

__all__ = ["CHANGED", "VARIABLES", "EnvVar", "Origin", "Reading", "describe", "get", "register"]

VARIABLES: tuple[EnvVar, ...] = (
    EnvVar(
        name="VLLM_SM12X_PREFETCH",
        default="auto",
        parser=choice("auto", "1", "0"),
        meaning=(
            "Whether a checkpoint is read into the page cache while it is loaded when nothing "
            "else says how: auto decides by file system, size and memory, 1 is "
            "VLLM_SM12X_LOADING=prefetch, 0 is lazy."
        ),
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_SM12X_PREFETCH_MIN_GIB",
        default=50.0,
        parser=gibibytes,
        meaning=(
            "A checkpoint on a local disk is read ahead by itself above this many GiB per rank, "
            "or where memory doesn't hold it."
        ),
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_SM12X_LOADING",
        default="auto",
        parser=choice("auto", "lazy", "prefetch", "window", "stream"),
        meaning=(
            "How safetensors files are loaded when no safetensors load strategy is given; see "
            "docs/loading.md. auto decides."
        ),
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_SM12X_LOADING_THREADS",
        default=None,
        shown="automatic",
        parser=count,
        meaning=(
            "Threads that read for a window (by itself 2 on a local disk, 8 elsewhere) or a "
            "stream (4)."
        ),
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_SM12X_LOADING_BLOCK_MIB",
        default=16,
        parser=count,
        meaning="A window reads blocks of so many MiB.",
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_SM12X_LOADING_WINDOW_GIB",
        default=1.0,
        parser=gibibytes,
        meaning=(
            "A window is at most so many GiB ahead of the load, and takes at most a quarter of "
            "the memory that is available."
        ),
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_SM12X_STREAM_MIB",
        default=48,
        parser=count,
        meaning="A stream reads into so many MiB of its own, page-locked where CUDA is up.",
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_TRITON_MLA_SPARSE",
        default=None,
        shown="automatic",
        parser=flag,
        meaning=(
            "Sparse MLA on SM12x by the overlay's Triton kernels: by itself where nothing better "
            "is usable, 1 always, 0 never. Nothing on other devices."
        ),
        # Attention classes differ, and with them what is traced.
        compile_factor=True,
        aliases=("VLLM_SM120_REFERENCE_DEEPSEEK_V4_ATTENTION",),
    ),
    EnvVar(
        name="VLLM_TRITON_MLA_SPARSE_ALLOW_CUDAGRAPH",
        default=True,
        shown="1",
        parser=flag,
        meaning=(
            "0 turns compilation and graph capture off for models on the Triton path; with drafts "
            "of speculative decoding both stay on, too."
        ),
        # Without compilation there is nothing to look up.
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_TRITON_MLA_SPARSE_TOPK_CHUNK_SIZE",
        default=None,
        shown="automatic",
        parser=count,
        meaning=(
            "At most this many entries of a row for one program of the decode kernels, rounded up "
            "to whole tiles of 32; what programs share is merged in a second launch."
        ),
        compile_factor=False,
        aliases=("VLLM_SM120_REFERENCE_TOPK_CHUNK_SIZE",),
    ),
    EnvVar(
        name="VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE",
        default=256,
        parser=count,
        meaning=(
            "Calls of more query rows aren't split between programs, or go in passes of so many "
            "where the entries of a program are set: it bounds the workspace of partial outputs, "
            "2 KiB a head, row and split."
        ),
        compile_factor=False,
        aliases=("VLLM_SM120_REFERENCE_QUERY_CHUNK_SIZE",),
    ),
    EnvVar(
        name="VLLM_TRITON_MLA_SPARSE_HEAD_BLOCK_SIZE",
        default=None,
        shown="automatic",
        parser=one_of(1, 2, 4, 16, 32),
        meaning=(
            "Heads a program, 16 or 32 where a kernel has both; 1, 2 and 4 mean the smallest, "
            "which is 16 because a tensor core's tile has that many rows."
        ),
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_TRITON_MLA_SPARSE_DUMP",
        default=False,
        shown="0",
        parser=flag,
        meaning=(
            "1 writes shapes, dtypes and strides of the next call of a sparse attention operator "
            "as JSON lines and stops the request with an error. Needs --enforce-eager: a captured "
            "graph calls no operator."
        ),
        compile_factor=False,
        aliases=("VLLM_SM120_DUMP_DEEPSEEK_V4_ATTENTION",),
    ),
    EnvVar(
        name="VLLM_TRITON_MLA_SPARSE_DUMP_PATH",
        default=None,
        shown="a temporary file",
        parser=str,
        meaning="Where the dump goes; lines are added at its end.",
        compile_factor=False,
        aliases=("VLLM_SM120_ATTENTION_DUMP_PATH",),
    ),
    EnvVar(
        name="VLLM_DEEP_GEMM_SM120_PAGED_MQA_TILED",
        default=True,
        shown="1",
        parser=flag,
        meaning=(
            "The indexer's decode logits where DeepGEMM has no SM12x kernels: 1 fetches a page "
            "once for all query tokens of a request, 0 takes the simple kernel, a tile of one "
            "query token a program."
        ),
        compile_factor=False,
    ),
)

# Variables of upstream's that have another default on SM12x; elsewhere they stay upstream's own.
CHANGED: tuple[EnvVar, ...] = (
    EnvVar(
        name="VLLM_SPARSE_INDEXER_MAX_LOGITS_MB",
        default=256,
        shown="256 on SM12x",
        parser=count,
        meaning=(
            "Upstream's cap of the sparse indexer's logits in MiB, which is 512 elsewhere; vLLM's "
            "memory profile counts with it, too."
        ),
        compile_factor=True,
    ),
)


def get(name: str) -> Any:
    """Return the value of the variable `name`; KeyError if the table has no such name."""
    for variable in VARIABLES:
        if variable.name == name:
            return variable()
    raise KeyError(name)


def register(
    table: MutableMapping[str, Callable[[], Any]],
    variables: Iterable[EnvVar] = VARIABLES,
    changed: Iterable[EnvVar] = CHANGED,
) -> None:
    """Add the variables and their aliases to `table`, which is `vllm.envs.environment_variables`.

    Entries of upstream's that are in `changed` get the overlay's default on SM12x; one that the
    table hasn't got isn't added. Raises ValueError when the table has one of `variables` already:
    two owners of a name would disagree.
    """
    for variable in variables:
        for name in (variable.name, *variable.aliases):
            if name in table:
                raise ValueError(f"{name} is registered already")
            table[name] = variable
    for variable in changed:
        if variable.name in table:
            table[variable.name] = functools.partial(_on_sm12x, variable, table[variable.name])


def _on_sm12x(variable: EnvVar, upstream: Callable[[], Any]) -> Any:
    return variable() if _is_sm12x() else upstream()


@functools.cache
def _is_sm12x() -> bool:
    """Ask vLLM's platform, which asks the driver and doesn't initialise CUDA."""
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return False
    capability = current_platform.get_device_capability()
    return capability is not None and capability.major == 12


def describe(variables: Iterable[EnvVar] = VARIABLES + CHANGED) -> str:
    """Return the table as Markdown, for the documentation."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for variable in variables:
        default = variable.default
        default = f"{default:g}" if isinstance(default, float) else default
        legacy = "".join(f" Legacy alias `{alias}`." for alias in variable.aliases)
        lines.append(
            f"| `{variable.name}` | {variable.shown or default} | {variable.meaning}{legacy} |"
        )
    return "\n".join(lines) + "\n"
