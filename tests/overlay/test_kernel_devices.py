# SPDX-License-Identifier: Apache-2.0
"""Launches go to the device that holds the tensors, shown on pretended ones."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import interpreted
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from vllm.sm12x.layouts import V4
from vllm.sm12x.layouts.scope import Scope

decode, prefill, einsum, prenorm, prompt, paged, tiles = interpreted.kernels(
    "decode", "prefill", "fp8_einsum", "hc_prenorm", "mqa_logits", "paged_mqa_logits", "tiles"
)

SECOND = torch.device("cuda", 1)
KERNELS = (
    (decode, "decode_kernel"),
    (decode, "merge_kernel"),
    (prefill, "prefill_kernel"),
    (einsum, "fp8_einsum_kernel"),
    (einsum, "sum_kernel"),
    (prenorm, "hc_prenorm_kernel"),
    (prompt, "mqa_logits_kernel"),
    (paged, "tiled_kernel"),
    (paged, "simple_kernel"),
)
BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn


class Current:
    """The current device, as torch.cuda has it."""

    def __init__(self) -> None:
        self.index, self.launches = 0, list[tuple[str, int]]()

    def switch(self, device: torch.device) -> AbstractContextManager[None]:
        return Switched(self, device)


class Switched(AbstractContextManager[None]):
    def __init__(self, current: Current, device: torch.device) -> None:
        self.current, self.index, self.before = current, device.index, 0

    def __enter__(self) -> None:
        self.before, self.current.index = self.current.index, self.index

    def __exit__(self, *_: object) -> None:
        self.current.index = self.before


class Kernel:
    """Stands for a kernel: notes the device that it is launched on, and takes keywords only."""

    def __init__(self, name: str, current: Current) -> None:
        self.name, self.current = name, current

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(**_: Any) -> None:
            self.current.launches.append((self.name, self.current.index))

        return launch


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=SECOND)


def call_everything() -> None:
    q, out, lse = empty(2, 16, 512, dtype=BF16), empty(2, 16, 512, dtype=BF16), empty(2, 16)
    indices = empty(2, 128, dtype=torch.int32)
    cache = torch.empty_strided(
        (4, 64, 584), (64 * 584 + 64, 584, 1), dtype=torch.uint8, device=SECOND
    )
    scopes = [Scope(cache=cache, indices=indices, lengths=None)]
    for whole in (True, False):
        decode.sparse_decode(
            q, scopes, scale=1.0, sink=None, out=out, lse=lse, batch_invariant=whole
        )
    kv = empty(9, 512, dtype=BF16)
    prefill.sparse_prefill(
        q, kv, indices, scale=1.0, sink=None, lengths=None, out=out, max_logits=lse, lse=lse
    )
    a, b = empty(1, 2, 1024, dtype=E4M3), empty(2, 128, 1024, dtype=E4M3)
    einsum.fp8_einsum(a, empty(1, 2, 8), b, empty(2, 1, 8), empty(1, 2, 128, dtype=BF16))
    prenorm.hc_prenorm(empty(2, 128, dtype=BF16), empty(24, 128), empty(1, 2, 24), empty(1, 2))
    q8, weights = empty(2, 1, 16, 128, dtype=E4M3), empty(2, 16)
    ends = empty(2, dtype=torch.int32)
    prompt.mqa_logits(
        q8.squeeze(1), empty(9, 128, dtype=E4M3), empty(9), weights, ends, ends, empty(2, 9)
    )
    pages, table = empty(4, 64, 132, dtype=torch.uint8), empty(2, 4, dtype=torch.int32)
    for tiled in (True, False):
        paged.paged_mqa_logits(q8, pages, weights, ends, table, empty(2, 256), tiled=tiled)


# A pretended tensor has an address of 0, which is what the check of caches asks about.
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("current", [0, 1])
def test_kernels_are_launched_where_their_tensors_are(
    monkeypatch: pytest.MonkeyPatch, current: int
) -> None:
    assert V4.token_bytes == 584
    now = Current()
    now.index = current
    monkeypatch.setattr(torch.cuda, "current_device", lambda: now.index)
    monkeypatch.setattr(torch.cuda, "device", now.switch)
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, Kernel(name, now))
    gb10 = tiles.Device(family=tiles.Family.SM121, sms=48, l2_bytes=24 << 20)
    for module in (decode, prefill, einsum, prompt, paged):
        monkeypatch.setattr(module, "describe_device", lambda _: gb10)
    with FakeTensorMode():
        call_everything()
    assert {name for name, _ in now.launches} == {name for _, name in KERNELS}
    assert {index for _, index in now.launches} == {1} and now.index == current
