# SPDX-License-Identifier: Apache-2.0
"""vLLM's own Triton kernels for sparse MLA, from a release's source archive, to compare with.

The recipe's store has the archive's tree, verified by hash. Only the kernels and the functions they
call are taken out of a file, so that nothing of vLLM has to be imported.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.compiled import Build, Family

ROOT = Path(__file__).resolve().parent.parent
BASE = "v0.33.0"
ROCM = "vllm/v1/attention/ops/rocm_aiter_mla_sparse.py"
XPU = "vllm/v1/attention/ops/xpu_mla_sparse.py"
V4_BYTES = 584
PROLOGUE = f"""
import triton
import triton.language as tl
LOG2E = {math.log2(math.e)!r}
LOGE2 = {math.log(2)!r}
"""


def upstream_builds(folder: Path) -> Iterator[Build]:
    """Builds of the release's kernels at 32 heads; `folder` keeps the files they come from."""
    rocm, xpu = read_upstream(ROCM, XPU)
    for block, stages in ((16, 3), (32, 3)):
        kernel = load(rocm, "_sparse_attn_decode_ragged_kernel", folder)
        label = f"{BASE} ROCm decode, 16 heads, {block} entries"
        yield _decode(label, kernel, block=block, warps=8, stages=stages)
    kernel = load(rocm, "_sparse_attn_decode_partial_kernel", folder)
    yield _decode(f"{BASE} ROCm decode, split", kernel, block=32, warps=4, stages=1)
    for width in (512, 576):
        kernel = load(rocm, "_sparse_attn_prefill_ragged_kernel", folder)
        yield _prefill(f"{BASE} ROCm prefill, {width} wide", kernel, width)
    yield _xpu(f"{BASE} XPU prefill, 512 wide", load(xpu, "_bf16_mla_sparse_kernel", folder))
    yield _logits(load(rocm, "_fp8_paged_mqa_logits_decode_kernel", folder))


def read_upstream(*paths: str) -> list[str]:
    """The text of files as the release has them, through the recipe: the first commit it makes."""
    with tempfile.TemporaryDirectory() as folder:
        tree = str(Path(folder) / "tree")
        apply = [sys.executable, "build.py", "apply", "--base", BASE, "--tree", tree]
        subprocess.run(apply, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        git = ["git", "-C", tree]
        first = _output([*git, "rev-list", "--max-parents=0", "HEAD"]).strip()
        return [_output([*git, "show", f"{first}:{path}"]) for path in paths]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def load(source: str, name: str, folder: Path) -> Any:
    """The jit function `name` of `source`, imported alone with those that it calls."""
    functions = {
        node.name: node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
    }
    wanted, todo = [], [name]
    while todo:
        function = functions[todo.pop()]
        if function not in wanted:
            wanted.append(function)
            names = (node.id for node in ast.walk(function) if isinstance(node, ast.Name))
            todo += [used for used in names if used in functions]
    for function in wanted:
        function.decorator_list = [ast.parse("triton.jit", mode="eval").body]
    path = folder / f"upstream{name}.py"
    path.write_text(PROLOGUE + "\n\n".join(map(ast.unparse, wanted[::-1])), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _decode(label: str, kernel: Any, *, block: int, warps: int, stages: int) -> Build:
    heads = 32
    partial = "fp32" if "partial" in kernel.__name__ else None
    return Build(
        label=label,
        kernel=kernel,
        pointers={
            "q_ptr": "bf16",
            "main_cache_ptr": "u8",
            "extra_cache_ptr": "u8",
            **dict.fromkeys(("main_indices_ptr", "main_indptr_ptr"), "i32"),
            **dict.fromkeys(("extra_indices_ptr", "extra_indptr_ptr"), "i32"),
            "attn_sink_ptr": "fp32",
            "out_ptr": "bf16",
            **dict.fromkeys(("part_m_ptr", "part_l_ptr", "part_acc_ptr"), partial),
        },
        numbers={
            **dict.fromkeys(("q_stride0", "out_stride0"), heads * 512),
            **dict.fromkeys(("q_stride1", "out_stride1"), 512),
            **dict.fromkeys(("main_cache_stride0", "extra_cache_stride0"), 37440),
            **dict.fromkeys(("main_num_rows", "extra_num_rows"), 64000),
            **dict.fromkeys(("main_block_size", "extra_block_size"), 64),
            "pm_stride0": 8 * heads,
            "pm_stride_s": heads,
            "pa_stride0": 8 * heads * 512,
            "pa_stride_s": heads * 512,
            "pa_stride_h": 512,
            "num_heads": heads,
            "scale": 0.044,
        },
        constants={
            "HAS_ATTN_SINK": True,
            "HAS_EXTRA": True,
            "NOPE_DIM": 448,
            "NOPE_BLOCK": 512,
            "ROPE_DIM": 64,
            "IS_FNUZ_MAIN": False,
            "IS_FNUZ_EXTRA": False,
            "BLOCK_H": 16,
            "BLOCK_K": block,
            "NUM_SPLITS": 8,
            "NUM_STAGES": 1,
        },
        warps=warps,
        stages=stages,
        entries=block,
        entry_bytes=V4_BYTES,
        heads=16,
        width=1024,
    )


def _prefill(label: str, kernel: Any, width: int) -> Build:
    heads, block = 32, 16
    return Build(
        label=label,
        kernel=kernel,
        pointers={
            **dict.fromkeys(("q_ptr", "kv_ptr", "out_ptr"), "bf16"),
            **dict.fromkeys(("kv_indices_ptr", "kv_indptr_ptr"), "i32"),
            "attn_sink_ptr": "fp32",
        },
        numbers={
            "q_stride_t": heads * width,
            "q_stride_h": width,
            "kv_stride_n": width,
            "out_stride_t": heads * 512,
            "out_stride_h": 512,
            "scale": 0.044,
            **dict.fromkeys(("q_stride_d", "kv_stride_d", "out_stride_d"), 1),
            "num_heads": heads,
            "head_dim": width,
            "num_kv": 64000,
        },
        constants={
            "HAS_ATTN_SINK": True,
            "OUT_DV": 512,
            "BLOCK_H": 16,
            "BLOCK_K": block,
            "BLOCK_D": 1 << (width - 1).bit_length(),
        },
        warps=4,
        stages=3,
        entries=block,
        entry_bytes=2 * width,
        heads=16,
        width=512 + width,
    )


def _xpu(label: str, kernel: Any) -> Build:
    heads, block = 32, 16
    return Build(
        label=label,
        kernel=kernel,
        pointers={
            **dict.fromkeys(("q_buffer", "k_buffer", "v_buffer", "out_ptr"), "bf16"),
            "indices_ptr": "i32",
            **dict.fromkeys(("softmax_lse_ptr", "max_logits_ptr"), "fp32"),
        },
        numbers={
            "seq_q": 64,
            "seq_kv": 64000,
            "h_q": heads,
            "dim_qk": 512,
            "dim_v": 512,
            **dict.fromkeys(("stride_q_token", "stride_out_token"), heads * 512),
            **dict.fromkeys(("stride_q_head", "stride_out_head"), 512),
            **dict.fromkeys(("stride_k_token", "stride_v_token"), 512),
            **dict.fromkeys(("stride_k_head", "stride_v_head"), 512),
            "stride_lse": heads,
            "stride_indices_token": 2048,
            "stride_indices_head": 2048,
            "sm_scale": 0.06,
        },
        constants={
            "kv_group_num": heads,
            "index_topk": 2048,
            "BLOCK_H": 16,
            "BLOCK_M": 32,
            "BLOCK_N": block,
            "BLOCK_DV": 512,
            "BLOCK_DMODEL": 512,
            "BLOCK_DPE": 0,
            "LOGE2": math.log(2),
        },
        warps=4,
        stages=3,
        entries=block,
        entry_bytes=1024,
        heads=16,
        width=1024,
    )


def _logits(kernel: Any) -> Build:
    heads, dim, block = 64, 128, 64
    return Build(
        label=f"{BASE} ROCm indexer logits, decode, {heads} heads",
        kernel=kernel,
        pointers={
            **dict.fromkeys(("q_ptr", "kv_val_ptr"), "fp8e4nv"),
            **dict.fromkeys(("kv_scale_ptr", "weights_ptr", "logits_ptr"), "fp32"),
            **dict.fromkeys(("ctx_lens_ptr", "block_tables_ptr"), "i32"),
        },
        numbers={
            **dict.fromkeys(("stride_q_b", "stride_q_n"), heads * dim),
            "stride_q_h": dim,
            "stride_w_row": heads,
            "stride_kvblk_fp8": 8640,
            "stride_kvblk_f32": 2160,
            "scale_region_off": block * dim // 4,
            "stride_bt_b": 512,
            "stride_logits_row": 4096,
            "max_blocks": 512,
            "max_model_len": 32768,
        },
        constants={
            "NUM_HEADS": heads,
            "HEAD_SIZE": dim,
            "BLOCK_SIZE": block,
            "BLOCK_KV": block,
            "N_SPLITS": 48,
            "NEXT_N": 1,
            "CTX_PER_ROW": True,
        },
        warps=4,
        stages=2,
        entries=block,
        entry_bytes=dim + 4,
        heads=heads,
        width=dim,
        family=Family.LOGITS,
    )
