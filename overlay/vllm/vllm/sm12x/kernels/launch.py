# SPDX-License-Identifier: Apache-2.0
"""Where kernels are launched: on the device that holds the tensors, whichever is current."""

from contextlib import AbstractContextManager, nullcontext

import torch

_HERE: AbstractContextManager[None] = nullcontext()


def device_of(tensor: torch.Tensor) -> AbstractContextManager[None]:
    """Return what makes the device of `tensor` the current one for a launch.

    Triton compiles for and launches on the current device. Where that is right already, which is
    always so in vLLM, this costs a comparison.
    """
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        switched: AbstractContextManager[None] = torch.cuda.device(tensor.device)
        return switched
    return _HERE
