# SPDX-License-Identifier: Apache-2.0
"""Who computes what on SM12x, and why: the overlay's kernels, upstream's path, or nobody.

In: a device, a model (`route`, `compression`), a vLLM release, the installed FlashInfer
(`flashinfer`) and DeepGEMM (`gemm`). Out: a path with one sentence that says why (`choice`).
"""

from .choice import (
    Cache,
    Choice,
    Route,
    calls_flashinfer,
    decide,
    describe_once,
    not_sm12x,
    vllm_refuses,
)
from .flashinfer import FlashInfer, find_flashinfer, flashinfer_v4_shapes, release_of

__all__ = [
    "Cache",
    "Choice",
    "FlashInfer",
    "Route",
    "calls_flashinfer",
    "decide",
    "describe_once",
    "find_flashinfer",
    "flashinfer_v4_shapes",
    "not_sm12x",
    "release_of",
    "vllm_refuses",
]
