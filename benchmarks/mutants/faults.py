# SPDX-License-Identifier: Apache-2.0
"""Faults that a person thought of: the mutation run tries each, whatever it draws."""

from __future__ import annotations

from benchmarks.mutants.draw import Named

FAULTS = (
    Named(
        name="a prompt's rows in another request's page table",
        module="mla/deepseek_v4.py",
        before="                attn_metadata.block_table,\n",
        after="                attn_metadata.block_table.roll(1, 0),\n",
    ),
    Named(
        name="a prompt's rows as another request's",
        module="mla/deepseek_v4.py",
        before="swa_metadata.token_to_req_indices[tokens],",
        after="swa_metadata.token_to_req_indices[tokens].flip(0),",
    ),
    Named(
        name="C4A's prompts take the decodes' picks",
        module="mla/deepseek_v4.py",
        before="local[first:]",
        after="local",
    ),
    Named(
        name="C4A's pages as long as C128A's",
        module="mla/deepseek_v4.py",
        before="// layer.compress_ratio",
        after="// 128",
    ),
    Named(
        name="dense prefill allowed",
        module="mla/backend.py",
        before="supports_dense_mha_prefill = False",
        after="supports_dense_mha_prefill = True",
    ),
    Named(
        name="GB10's memory as if it weren't shared",
        module="loading/gather.py",
        before="weights_share_memory=weights_share_memory()",
        after="weights_share_memory=False",
    ),
    Named(
        name="hangs end one version lower",
        module="support/flashinfer.py",
        before="HANGS_BELOW = (0, 6, 18)",
        after="HANGS_BELOW = (0, 6, 17)",
    ),
    Named(
        name="a window's page is another request's",
        module="mla/windows.py",
        before="block_table[requests.long().unsqueeze(1),",
        after="block_table[requests.long().flip(0).unsqueeze(1),",
    ),
)
