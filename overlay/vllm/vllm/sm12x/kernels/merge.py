# SPDX-License-Identifier: Apache-2.0
"""One softmax from those of the splits: each split's output, weighted by its share of the sum."""

import triton
import triton.language as tl

from .softmax import LN2, LOG2E, VARYING


@triton.jit(do_not_specialize=VARYING)
def merge_kernel(
    partial_ptr, partial_lse_ptr, sink_ptr, out_ptr, lse_ptr,
    out_row_stride, out_head_stride, lse_row_stride, heads, splits, ROUNDED: tl.constexpr,
):  # fmt: skip
    """Grid (rows * heads). `partial` (rows, splits, heads, 512) float32 and base-2 LSEs.

    A split without keys has an output of 0 and an LSE of -inf. ROUNDED is `splits`, rounded up to a
    power of two.
    """
    row, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    part = row * splits * heads + head
    split = tl.arange(0, ROUNDED)
    lse = tl.load(partial_lse_ptr + part + split * heads, mask=split < splits, other=float("-inf"))
    m = tl.max(lse, 0)
    reference = tl.where(m == float("-inf"), 0.0, m)
    total = tl.sum(tl.exp2(lse - reference), 0)
    column = tl.arange(0, 512)
    summed = tl.zeros([512], tl.float32)
    for i in range(splits):
        place = part + i * heads
        weight = tl.exp2(tl.load(partial_lse_ptr + place) - reference)
        summed += weight * tl.load(partial_ptr + place * 512 + column)
    denominator = total
    if sink_ptr is not None:
        denominator += tl.exp2(tl.load(sink_ptr + head).to(tl.float32) * LOG2E - reference)
    out = tl.where(total == 0, 0.0, summed / denominator)
    out_ptr += row * out_row_stride + head * out_head_stride
    tl.store(out_ptr + column, out.to(out_ptr.dtype.element_ty))
    natural = tl.where(total == 0, float("inf"), (m + tl.log2(total)) * LN2)
    tl.store(lse_ptr + row * lse_row_stride + head, natural)
