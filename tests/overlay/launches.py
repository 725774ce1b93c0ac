# SPDX-License-Identifier: Apache-2.0
"""What Triton would compile for calls on sm_120, found without a GPU and without compiling.

`python launches.py` prints one JSON document: for each model how many kernels the warm-up compiles,
and those of its calls that were not among them. Kernels are keyed by the function that Triton's
launcher uses: a type, alignment to 16 and equality to 1 of every argument, and all constants.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature
from vllm.sm12x import layouts
from vllm.sm12x.kernels import tiles
from vllm.sm12x.ops import flash_mla
from vllm.sm12x.warmup.attention import Shape, v4_shape, v32_shape, variants, warm_up

CPU = torch.device("cpu")
BACKEND = make_backend(GPUTarget("cuda", 120, 32))
ROWS = (1, 2, 17, 48, 300)
GB10 = tiles.Device(family=tiles.Family.SM121, sms=48, l2_bytes=24 << 20)
PRO6000 = tiles.Device(family=tiles.Family.SM120, sms=188, l2_bytes=128 << 20)

MODELS = {
    **{
        f"V4, {heads} heads": v4_shape(
            heads=heads, window=128, index_topk=512, ratios=[0, 4, 128], block_size=256,
            max_model_len=2**15,
        )
        for heads in (8, 32, 64)
    },
    "V4.1, 32 heads": v4_shape(
        heads=32, window=128, index_topk=512, ratios=[0, 1, 2], block_size=256,
        max_model_len=2**15, window_page=32,
    ),
    **{
        f"V3.2, {heads} heads, RoPE {rope}": v32_shape(
            heads=heads, index_topk=topk, rope_dim=rope
        )
        for heads in (1, 16, 20, 128)
        for rope, topk in ((64, 2048), (0, 1024))
    },
}  # fmt: skip


class Recorder:
    """Stands where Triton launches a kernel, and keeps what would have to be compiled."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._binders: dict[str, Callable[..., Any]] = {}

    def run(self, function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        name = function.fn.__name__
        if name not in self._binders:
            signature = (function.signature, function.params, BACKEND)
            self._binders[name] = create_function_from_signature(*signature)
        _, specialised, rest = self._binders[name](*args, **options)
        self.seen.add(f"{name}{specialised}{sorted(rest.items())}")

    def take(self) -> set[str]:
        seen, self.seen = self.seen, set()
        return seen


def indices(rows: int, width: int, offset: int) -> torch.Tensor:
    """Rows of a longer buffer, from one of them on."""
    return torch.full((rows + offset, width), -1, dtype=torch.int32)[offset:]


def decodes(shape: Shape) -> Iterator[dict[str, Any]]:
    """Calls as vLLM makes them: batches of any size, several tokens a request, parts of a batch."""
    for layer in shape.layers:
        for rows in ROWS:
            for tokens, offset in ((1, 0), (1, 3), (rows, 0)):
                lengths = torch.zeros(rows + offset, dtype=torch.int32)[offset:]
                call: dict[str, Any] = {"out": None}
                q = torch.zeros(rows + offset, shape.heads, shape.width, dtype=torch.bfloat16)
                call["q"] = q[offset:].view(rows // tokens, tokens, *q.shape[1:])
                names = ("", "extra_") if len(layer.widths) > 1 else ("",)
                sizes = zip(layer.widths, layer.page_sizes, strict=True)
                for name, (width, page) in zip(names, sizes, strict=True):
                    picks = indices(rows, width, offset).view(rows // tokens, tokens, width)
                    cache = layouts.empty_cache(shape.layout, 1 + rows % 3, page, device=CPU)
                    call[f"{name}k_cache"] = cache.unsqueeze(-2)
                    call["extra_indices_in_kvcache" if name else "indices"] = picks
                    if shape.lengths:
                        call[f"{name}topk_length"] = lengths[: rows // tokens]
                if shape.sink:
                    call["attn_sink"] = torch.zeros(shape.heads)
                if rows % 2:
                    call["out"] = torch.zeros(*call["q"].shape[:3], 512, dtype=torch.bfloat16)
                yield call


def prefills(shape: Shape) -> Iterator[dict[str, Any]]:
    for given in shape.prefill_lengths:
        for rows in ROWS:
            for keys, width in ((1, 128), (1000, 640), (4096, 2048)):
                q = torch.zeros(rows + 1, shape.heads, shape.width, dtype=torch.bfloat16)[1:]
                lengths = torch.zeros(rows + 1, dtype=torch.int32)[1:]
                yield {
                    "q": q,
                    "kv": torch.zeros(keys, 1, shape.width, dtype=torch.bfloat16),
                    "indices": indices(rows, width, 1).unsqueeze(1),
                    "sm_scale": 0.1,
                    "attn_sink": torch.zeros(shape.heads) if shape.sink else None,
                    "topk_length": lengths if given else None,
                }


# What is put in the place of an operator's look at its device.
CHECK, DEVICE = "check_runnable", "describe_device"


def compare(shape: Shape, recorder: Recorder) -> dict[str, Any]:
    warm_up(shape, CPU)
    warm = recorder.take()
    common: dict[str, Any] = {"block_table": None, "cache_seqlens": None, "head_dim_v": 512}
    for call in decodes(shape):
        flash_mla.flash_mla_with_kvcache(
            **common, **call, tile_scheduler_metadata=None, is_fp8_kvcache=True
        )
    for call in prefills(shape):
        flash_mla.flash_mla_sparse_fwd(**call)
    called = recorder.take()
    return {
        "variants": len(variants(shape)),
        "warm": len(warm),
        "called": len(called),
        "missing": sorted(called - warm),
    }


def main() -> None:
    from vllm.sm12x.kernels import decode, prefill

    recorder = Recorder()
    JITFunction.run = lambda self, *args, **options: recorder.run(self, *args, **options)
    setattr(flash_mla, CHECK, lambda *_: None)
    found = {}
    for device in (GB10, PRO6000):
        for module in (decode, prefill):
            setattr(module, DEVICE, lambda _, device=device: device)
        for name, shape in MODELS.items():
            found[f"{name} on {device.family.value}"] = compare(shape, recorder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
