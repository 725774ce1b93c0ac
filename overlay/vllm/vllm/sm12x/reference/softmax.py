# SPDX-License-Identifier: Apache-2.0
"""Attention of one query row over its keys, with a sink: the formula that all operators share."""

import torch


def attend(
    q: torch.Tensor,
    kv: torch.Tensor,
    *,
    scale: float,
    sink: torch.Tensor | None,
    d_v: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the output (heads, d_v), largest logit (heads,) and LSE (heads,) of one query row.

    `q` is (heads, d_qk) and `kv` (n, at least d_qk and d_v), of one floating dtype; a value is the
    first `d_v` numbers of its key. `sink` is (heads,) or None. With s = scale * q.k:

        lse = log(sum(exp(s)))                        natural logarithm, without the sink
        out = sum(exp(s) * v) / (sum(exp(s)) + exp(sink))
            = sum(softmax(s) * v) * sigmoid(lse - sink)

    so a sink of -inf changes nothing and one of +inf gives 0. Without a key the output is 0, the
    largest logit -inf and the LSE +inf. The formulas are those of FlashMLA's tests/ref.py.
    """
    heads, d_qk = q.shape
    if not kv.shape[0]:
        minus_infinity = q.new_full((heads,), -torch.inf)
        return q.new_zeros(heads, d_v), minus_infinity, -minus_infinity
    logits = q @ kv[:, :d_qk].T * scale
    lse = logits.logsumexp(dim=1)
    out = logits.softmax(dim=1) @ kv[:, :d_v]
    if sink is not None:
        out = out * torch.sigmoid(lse - sink.to(q.dtype)).unsqueeze(1)
    return out, logits.amax(dim=1), lse


def counted(indices: torch.Tensor, length: int | None, limit: int) -> torch.Tensor:
    """Return the entries of one row (k,) that count: the leftmost `length`, within [0, limit).

    An invalid entry may stand anywhere. What is right of the length is stale memory and is cut off
    before anything looks at it. An entry that stands there twice counts twice.
    """
    leftmost = indices if length is None else indices[: max(length, 0)]
    return leftmost[(leftmost >= 0) & (leftmost < limit)]
