# SPDX-License-Identifier: Apache-2.0
"""How much memory the indexer's logits take where they are ours, which vLLM's profile must know.

vLLM cuts prompts so that their logits stay below a cap, which its profile counts. It doesn't cut
decode steps: 256 requests of three tokens over a million, of which V4 keeps every fourth, have 768
MiB of logits. Here they go in passes over whole requests, each of which ends with its picks.
"""

import importlib
from typing import Any

import torch

from ..ops import logits_buffer
from ..ops.deep_gemm import fp8_fp4_paged_mqa_logits
from ..ops.logits_buffer import ITEM, ROW_ALIGNMENT, pitch_of
from .deep_gemm import choose_gemm

# Rows of one request that must fit, however small the cap: its draft tokens and the one before.
LEAST_ROWS = 16


def reserve(cap: int, picks: torch.Tensor, max_model_len: int, gathered: int) -> int:
    """Reserve the buffer during a profile run; return the bytes that are still to be counted.

    `cap`: the bytes of logits that prompts are cut to. `picks` (tokens, k): the indexer's results,
    as many rows as a step has tokens. `max_model_len`: the longest row of decode steps, `gathered`:
    of prompts. Where the logits are DeepGEMM's, nothing is reserved and all of `cap` is returned.
    """
    if not choose_gemm().triton:
        return cap
    tokens = len(picks)
    longest = pitch_of(max(max_model_len, gathered))
    count = min(cap // ITEM + tokens * ROW_ALIGNMENT, tokens * longest)
    least = LEAST_ROWS * pitch_of(max_model_len)
    logits_buffer.reserve(max(count, least), picks.device)
    return 0


def in_passes(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    metadata: Any,
    picks: torch.Tensor,
    max_model_len: int,
) -> bool:
    """Pick for a decode step whose logits don't fit into the buffer; whether that was needed.

    `q` (requests, next_n, heads, d) e4m3 and `metadata` as vLLM has them for decode steps; `picks`
    (tokens, k) int32, of which the first are written. How many passes there are follows from shapes
    alone, so a captured graph has them all.
    """
    requests, next_n = q.shape[:2]
    held, row = logits_buffer.reserved(q.device), pitch_of(max_model_len)
    if not choose_gemm().triton or not held or requests * next_n * row <= held:
        return False
    most = max(1, held // (next_n * row))
    padded = picks
    if metadata.requires_padding:
        padded = picks.new_full((requests * next_n, picks.shape[1]), -1)
    for first in range(0, requests, most):
        some = slice(first, min(first + most, requests))
        rows = slice(some.start * next_n, some.stop * next_n)
        lengths = metadata.seq_lens[some]
        logits = fp8_fp4_paged_mqa_logits(
            (q[some], None), kv_cache, weights[rows], lengths, metadata.block_table[some],
            metadata.schedule_metadata, max_model_len, False,
        )  # fmt: skip
        pick(logits, next_n, lengths, padded[rows])
    if metadata.requires_padding:
        unpad(padded.view(requests, next_n, -1), metadata.decode_lens, picks)
    return True


def pick(logits: torch.Tensor, next_n: int, lengths: torch.Tensor, picks: torch.Tensor) -> None:
    """Write each row's largest, by the kernel that takes any number of rows and picks."""
    name = "top_k_per_row_decode"
    operations = importlib.import_module("vllm._custom_ops")
    top_k = getattr(operations, name, None) or getattr(torch.ops._C, name)
    top_k(logits, next_n, lengths, picks, len(logits), *logits.stride(), picks.shape[1])


def unpad(padded: torch.Tensor, counts: torch.Tensor, picks: torch.Tensor) -> None:
    """Write the rows that are tokens, `counts` of each request, to the beginning of `picks`."""
    from vllm.v1.attention.ops.common import unpack_seq_triton

    rows = unpack_seq_triton(padded, counts)
    picks[: len(rows)] = rows
