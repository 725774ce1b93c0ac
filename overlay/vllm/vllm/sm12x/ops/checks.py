# SPDX-License-Identifier: Apache-2.0
"""Checks of operator arguments. They read shapes, dtypes and strides only, never a tensor's values.

A graph can be captured through them, and a wrong argument is named instead of faulting on the GPU.
"""

import os
from collections.abc import Sequence

import torch

from ..layouts import describe

# What Triton takes for true in an environment variable.
TRUE = ("1", "y", "yes", "on", "true")


def check_tensor(
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int | str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Raise ValueError unless `tensor` has this shape, dtype and device and dense rows.

    `shape` holds a number where only that will do, and a name where any size will.
    """
    fits = tensor.dim() == len(shape) and all(
        isinstance(wanted, str) or size == wanted
        for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    dense = tensor.shape[-1:] in ((), (0,), (1,)) or tensor.stride(-1) == 1
    if fits and dense and tensor.dtype == dtype and tensor.device == device:
        return
    wanted = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    plain = str(dtype).removeprefix("torch.")
    raise ValueError(
        f"{name} is {describe(tensor)} on {tensor.device}; "
        f"expected {wanted} {plain} with stride 1 last, on {device}"
    )


def check_runnable(operator: str, device: torch.device, reference: str) -> None:
    """Raise RuntimeError where no Triton kernel can run: off the GPU without the interpreter."""
    if device.type == "cuda" or os.environ.get("TRITON_INTERPRET", "").lower() in TRUE:
        return
    raise RuntimeError(
        f"{operator} got tensors on {device}, and its kernels need a CUDA device. "
        f"Plain PyTorch is in vllm.sm12x.reference.{reference}; "
        "TRITON_INTERPRET=1, set before Triton is imported, runs the kernels without a GPU."
    )
