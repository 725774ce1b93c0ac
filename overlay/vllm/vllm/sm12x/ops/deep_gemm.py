# SPDX-License-Identifier: Apache-2.0
"""What DeepSeek V4, V3.2 and GLM-5 need of DeepGEMM, on Triton kernels, as vLLM calls it.

The signatures are those of `vllm/utils/deep_gemm.py` in v0.20.0 to v0.27.1. `reference/` says what
they compute. Scales are read in the form that they come in, so it isn't asked what DeepGEMM would
want on a device.
"""

import torch

from .. import envs
from ..layouts import describe
from . import logits_buffer
from .checks import check_runnable, check_tensor

__all__ = [
    "fp8_einsum",
    "fp8_fp4_mqa_logits",
    "fp8_fp4_paged_mqa_logits",
    "get_paged_mqa_logits_metadata",
    "tf32_hc_prenorm_gemm",
]

EQUATION = "bhr,hdr->bhd"
# The second is DeepGEMM's name for weights whose scales it has repeated for each row.
RECIPES = ((1, 128, 128), (1, 1, 128))
GROUP = 128
TILED = "VLLM_DEEP_GEMM_SM120_PAGED_MQA_TILED"
SCALE_BYTES = 4

Scaled = tuple[torch.Tensor, torch.Tensor]
MaybeScaled = tuple[torch.Tensor, torch.Tensor | None]


def fp8_fp4_mqa_logits(
    q: MaybeScaled,
    kv: Scaled,
    weights: torch.Tensor,
    cu_seqlen_ks: torch.Tensor,
    cu_seqlen_ke: torch.Tensor,
    clean_logits: bool,
) -> torch.Tensor:
    """Logits of the sparse indexer over gathered keys. FP8 alone: `q` is (values, None).

    Values of `q` are (m, heads, d) and those of `kv` (n, d) e4m3, d being 32, 64 or 128; the keys'
    scales (n,) and `weights` (m, heads) float32, with the query's scale in them. Row i sees the
    keys [cu_seqlen_ks[i], cu_seqlen_ke[i]), both (m,) int32.

    Returns (m, n) float32. What a row doesn't see is -inf with `clean_logits`, else undefined.
    Raises ValueError for an argument that doesn't fit, and RuntimeError where no kernel can run.
    """
    values = _fp8_query(q, ("m", "heads", "d"))
    m, heads, dim = values.shape
    k, scales = kv
    check_tensor("kv[0]", k, ("n", dim), torch.float8_e4m3fn, values.device)
    n = k.shape[0]
    check_tensor("kv[1]", scales, (n,), torch.float32, values.device)
    check_tensor("weights", weights, (m, heads), torch.float32, values.device)
    check_tensor("cu_seqlen_ks", cu_seqlen_ks, (m,), torch.int32, values.device)
    check_tensor("cu_seqlen_ke", cu_seqlen_ke, (m,), torch.int32, values.device)
    check_runnable("fp8_fp4_mqa_logits", values.device, "logits.mqa_logits")
    out = logits_buffer.logits(m, n, values.device, clean=clean_logits)
    if m and n:
        # Not before it is needed: Triton takes a while to import and isn't everywhere.
        from ..kernels.mqa_logits import mqa_logits

        mqa_logits(values, k, scales, weights, cu_seqlen_ks, cu_seqlen_ke, out)
    return out


def get_paged_mqa_logits_metadata(
    context_lens: torch.Tensor, block_size: int, num_sms: int
) -> torch.Tensor:
    """Return DeepGEMM's schedule, (num_sms + 1, 2) int32, as zeros: our grids need no plan.

    `context_lens` int32, `block_size` in tokens.
    """
    return context_lens.new_zeros((num_sms + 1, 2), dtype=torch.int32)


def fp8_fp4_paged_mqa_logits(
    q: MaybeScaled,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    schedule_metadata: torch.Tensor,
    max_model_len: int,
    clean_logits: bool,
) -> torch.Tensor:
    """Logits of the sparse indexer over a paged cache. FP8 alone: `q` is (values, None).

    Values of `q` are (b, next_n, heads, d) e4m3, d being 32, 64 or 128. `kv_cache` (pages, page
    size, 1, d + 4) uint8: a page holds page size * d bytes of e4m3, then page size float32 scales;
    the page size is a multiple of 16, and pages may lie apart. `weights` (b * next_n, heads)
    float32. `context_lens` int32: (b, next_n) is what each query token sees, (b,) what the last of
    a request does. `block_tables` (b, blocks) int32; entries past a length are not used.
    `schedule_metadata` isn't looked at.

    Returns (b * next_n, max_model_len) float32. What a row doesn't see is -inf with `clean_logits`
    and undefined without. Raises ValueError for an argument that doesn't fit, and RuntimeError
    where no kernel can run.
    """
    values = _fp8_query(q, ("b", "next_n", "heads", "d"))
    b, next_n, heads, dim = values.shape
    device = values.device
    cache = _paged_cache(kv_cache, dim, device)
    check_tensor("weights", weights, (b * next_n, heads), torch.float32, device)
    lengths = (b,) if context_lens.dim() == 1 else (b, next_n)
    check_tensor("context_lens", context_lens, lengths, torch.int32, device)
    check_tensor("block_tables", block_tables, (b, "blocks"), torch.int32, device)
    check_runnable("fp8_fp4_paged_mqa_logits", device, "logits.paged_mqa_logits")
    out = logits_buffer.logits(b * next_n, max_model_len, device, clean=clean_logits)
    if out.numel():
        from ..kernels.paged_mqa_logits import paged_mqa_logits

        paged_mqa_logits(
            values, cache, weights, context_lens, block_tables, out, tiled=envs.get(TILED)
        )
    return out


def fp8_einsum(
    equation: str,
    a: Scaled,
    b: Scaled,
    out: torch.Tensor,
    c: None = None,
    recipe: tuple[int, int, int] = RECIPES[0],
) -> None:
    """Write the grouped product "bhr,hdr->bhd" of block-scaled e4m3 tensors into `out`.

    Values of `a` are (rows, h, r), any strides but the last; its scales (rows, h, r / 128) float32,
    or (rows, h, r / 512) int32 of four UE8M0 bytes each, any strides. Values of `b` are (h, d, r)
    or (h * d, r), its scales one for 128 by 128 of them in the same number of dims, float32 or
    float8_e8m0fnu. `out` (rows, h, d) bfloat16. d and r are multiples of 128.

    `recipe` tells DeepGEMM the form of scales and nothing here. Raises ValueError for an argument
    that doesn't fit, and RuntimeError where no kernel can run.
    """
    if equation != EQUATION or c is not None or tuple(recipe) not in RECIPES:
        raise ValueError(
            f"equation is {equation!r}, recipe {tuple(recipe)}, c {'given' if c is not None else c}"
            f"; expected {EQUATION!r}, one of {RECIPES}, and no c"
        )
    values, scales = a
    device = values.device
    check_tensor("a[0]", values, ("rows", "h", "r"), torch.float8_e4m3fn, device)
    rows, groups, depth = values.shape
    check_tensor("out", out, (rows, groups, "d"), torch.bfloat16, device)
    width = out.shape[2]
    if depth % GROUP or width % GROUP or not depth:
        raise ValueError(f"r is {depth} and d is {width}; expected multiples of {GROUP}")
    _check_scales(scales, (rows, groups, depth // GROUP), device)
    weight, weight_scales = _weight(b, (groups, width, depth), device)
    check_runnable("fp8_einsum", device, "einsum.fp8_einsum")
    if out.numel():
        from ..kernels import fp8_einsum as kernel

        kernel.fp8_einsum(values, scales, weight, weight_scales, out)


def tf32_hc_prenorm_gemm(
    x: torch.Tensor,
    fn: torch.Tensor,
    out: torch.Tensor,
    sqrsum: torch.Tensor,
    num_split: int | None,
) -> None:
    """Write x @ fn.T and the sums of squares of the rows of x, each in `num_split` parts.

    `x` (m, k) bfloat16, `fn` (n, k) float32, k a multiple of 64; `out` (num_split, m, n) and
    `sqrsum` (num_split, m) float32, or without the first dimension where `num_split` is None.
    The parts add up to the result; which of them holds what isn't said. Raises ValueError for an
    argument that doesn't fit, and RuntimeError where no kernel can run.
    """
    check_tensor("x", x, ("m", "k"), torch.bfloat16, x.device)
    m, k = x.shape
    check_tensor("fn", fn, ("n", k), torch.float32, x.device)
    if k % 64 or not k:
        raise ValueError(f"x is {describe(x)}; expected a last dimension that 64 divides")
    parts = () if num_split is None else (num_split,)
    check_tensor("out", out, (*parts, m, fn.shape[0]), torch.float32, x.device)
    check_tensor("sqrsum", sqrsum, (*parts, m), torch.float32, x.device)
    check_runnable("tf32_hc_prenorm_gemm", x.device, "einsum.hc_prenorm")
    # Without columns there are still the sums of squares.
    if sqrsum.numel():
        from ..kernels.hc_prenorm import hc_prenorm

        if num_split is None:
            out, sqrsum = out.unsqueeze(0), sqrsum.unsqueeze(0)
        hc_prenorm(x, fn, out, sqrsum)


def _fp8_query(q: MaybeScaled, shape: tuple[str, ...]) -> torch.Tensor:
    values, scales = q
    if scales is not None:
        raise ValueError(
            f"q[1] is {describe(scales)}; expected None: the kernels for SM12x read FP8 alone, "
            "whose scale is in the weights"
        )
    check_tensor("q[0]", values, shape, torch.float8_e4m3fn, values.device)
    if values.shape[-1] not in (32, 64, 128):
        raise ValueError(f"q[0] is {describe(values)}; expected a last dimension of 32, 64 or 128")
    return values


def _paged_cache(cache: torch.Tensor, dim: int, device: torch.device) -> torch.Tensor:
    """Return the cache without its head dimension; ValueError unless its pages are of one piece."""
    shape = ("pages", "page size", 1, dim + SCALE_BYTES)
    check_tensor("kv_cache", cache, shape, torch.uint8, device)
    pages, size = cache.shape[:2]
    whole = cache.stride(1) == dim + SCALE_BYTES or size == 1
    if not pages or not size or size % 16 or not whole or cache.stride(0) % SCALE_BYTES:
        raise ValueError(
            f"kv_cache is {describe(cache)}; expected a page or more of 16, 32, ... tokens, each "
            "page in one piece and starting at a multiple of 4 bytes"
        )
    return cache.squeeze(2)


def _check_scales(scales: torch.Tensor, shape: tuple[int, int, int], device: torch.device) -> None:
    """Check the scales of `a`, whose strides are any: vLLM has the rows' dimension dense."""
    packed = (*shape[:2], -(-shape[2] // 4))
    expected = {torch.float32: shape, torch.int32: packed}.get(scales.dtype)
    if tuple(scales.shape) != expected or scales.device != device:
        raise ValueError(
            f"a[1] is {describe(scales)} on {scales.device}; expected {shape} float32 "
            f"or {packed} int32, on {device}"
        )


def _weight(b: Scaled, shape: tuple[int, int, int], device: torch.device) -> Scaled:
    """Return b and its scales with three dims, the scales as float32 or as UE8M0 bytes."""
    values, scales = b
    h, d, r = shape
    flat, blocks = (h * d, r), (h, d // GROUP, r // GROUP)
    expected: tuple[int, ...] = flat if values.dim() == 2 else shape
    check_tensor("b[0]", values, expected, torch.float8_e4m3fn, device)
    few = (blocks, (h * d // GROUP, r // GROUP))
    known = scales.dtype in (torch.float32, torch.float8_e8m0fnu)
    if tuple(scales.shape) not in few or not known or not scales.is_contiguous():
        raise ValueError(
            f"b[1] is {describe(scales)}; expected {few[0]} or {few[1]}, float32 or "
            "float8_e8m0fnu, contiguous"
        )
    if values.dim() == 2:
        values = values.unflatten(0, (h, d))
    scales = scales.view(blocks)
    return values, scales.view(torch.uint8) if scales.dtype == torch.float8_e8m0fnu else scales
