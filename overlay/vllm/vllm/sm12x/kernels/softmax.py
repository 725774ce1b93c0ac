# SPDX-License-Identifier: Apache-2.0
"""What every attention kernel shares: a tile's softmax step, and who takes which tiles.

Logits are kept in base 2 (times log2 e) so that a power costs one instruction; what a caller sees
is in base e. `m` is a row's largest logit so far and -inf before its first key.
"""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)

# Arguments that a kernel isn't compiled anew for when they become 1 or a multiple of 16.
VARYING = ("slots", "width", "extra_slots", "extra_width", "heads", "splits", "keys")


@triton.jit
def fold(logits, valid, m):
    """One tile of logits (heads, entries) against a row's running maximum.

    Returns the weights exp2(logits - maximum), 0 for entries that aren't `valid`, the factor that
    what was summed before has to be multiplied by, and the new maximum.
    """
    logits = tl.where(valid[None, :], logits, float("-inf"))
    larger = tl.maximum(m, tl.max(logits, 1))
    # Where all is -inf so far, a difference would be NaN.
    reference = tl.where(larger == float("-inf"), 0.0, larger)
    return tl.exp2(logits - reference[:, None]), tl.exp2(m - reference), larger


@triton.jit
def no_sum(LATE: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr):
    """The sum of weights before the first key.

    LATE: it is kept by place in a tile until the end, because adding a tile's weights up takes all
    warps and three barriers. With 32 heads there are no registers left for that.
    """
    # Not two returns: a compiler wants one type of them, though only one is ever reached.
    return tl.zeros([BLOCK_H, BLOCK_N], tl.float32) if LATE else tl.zeros([BLOCK_H], tl.float32)


@triton.jit
def add(total, weights, decay, LATE: tl.constexpr):
    """The sum with a tile's weights added."""
    return total * decay[:, None] + weights if LATE else total * decay + tl.sum(weights, 1)


@triton.jit
def divisor(m, total, sink_ptr, heads, valid_head):
    """1 / (sum + exp(sink)) in the units of `total`, and 0 for a row without keys."""
    denominator = total
    if sink_ptr is not None:
        sink = tl.load(sink_ptr + heads, mask=valid_head, other=0.0).to(tl.float32)
        reference = tl.where(m == float("-inf"), 0.0, m)
        denominator += tl.exp2(sink * LOG2E - reference)
    return tl.where(total == 0, 0.0, 1.0 / denominator)


@triton.jit
def natural_lse(m, total):
    """The natural logarithm of the sum, +inf for a row without keys."""
    return tl.where(total == 0, float("inf"), (m + tl.log2(total)) * LN2)


@triton.jit
def count(length_ptr, row, LIMIT):
    """How many of a row's `LIMIT` indices count."""
    counted = LIMIT
    if length_ptr is not None:
        counted = tl.minimum(tl.maximum(tl.load(length_ptr + row).to(tl.int32), 0), LIMIT)
    return counted


@triton.jit
def share(tiles, split, splits):
    """The tiles [first, end) that a split of a row with so many takes."""
    each = tl.cdiv(tiles, splits)
    first = tl.minimum(split * each, tiles)
    return first, tl.minimum(first + each, tiles)


@triton.jit
def pick(index_ptr, first, counted, BLOCK: tl.constexpr):
    """The indices at `first` and on, -1 for those that don't count: stale memory is never read."""
    position = first + tl.arange(0, BLOCK)
    return tl.load(index_ptr + position, mask=position < counted, other=-1)
