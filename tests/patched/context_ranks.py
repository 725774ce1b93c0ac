# SPDX-License-Identifier: Apache-2.0
"""Ranks that share contexts, as processes: vLLM's groups, writers and merges around our classes.

`python context_ranks.py FOLDER` leaves there what each rank of 2 and of 4 gets for its heads in
each of CASES. It wants a process of its own: Triton is interpreted, and with it vLLM's kernels.
"""

import importlib
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conftest import declare_torchvision_operators

WORLDS = (2, 4)
LAYER, PAGE, SCALE = "layer", 64, 0.06
TOKENS, REQUESTS, BLOCKS = 32, 8, 12
LOG2E = 1.4426950408889634
# The scales of GLM's keys, which kernels without RoPE want.
ARBITRARY = "arbitrary_fp32"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step. Of each request, `lengths` and the new tokens among them. `heads` are a rank's."""

    name: str
    lengths: tuple[int, ...]
    new: tuple[int, ...]
    heads: int = 4
    picks: int = 64
    turn: int = 1
    rope_dim: int = 64
    sinks: bool = False
    merge: str = "ag_rs"
    path: str = "triton"
    gap: int = 0


SHORT: dict[str, Any] = {"lengths": (1, 2, 3, 1), "new": (1, 1, 3, 1)}
MIXED: dict[str, Any] = {"lengths": (300, 5, 129, 70), "new": (1, 1, 5, 4)}
CASES = (
    Case(name="decodes", lengths=(130, 64, 200), new=(1, 1, 1)),
    Case(name="mixed", **MIXED),
    Case(name="short", **SHORT),
    Case(name="turns of 16", turn=16, **MIXED),
    Case(name="turns of 64", turn=64, picks=128, **MIXED),
    Case(name="short turns", turn=4, **SHORT),
    Case(name="all to all", merge="a2a", **MIXED),
    Case(name="all to all, short", merge="a2a", turn=2, **SHORT),
    Case(name="sinks", sinks=True, **MIXED),
    Case(name="sinks, short", sinks=True, **SHORT),
    Case(name="sinks, all to all", sinks=True, merge="a2a", turn=8, **MIXED),
    Case(name="many heads", heads=33, lengths=(90, 33), new=(2, 1)),
    Case(name="other layers between pages", gap=3, **MIXED),
    Case(name="without RoPE", rope_dim=0, **MIXED),
    Case(name="FlashInfer", path="flashinfer", **MIXED),
    Case(name="FlashInfer, short", path="flashinfer", turn=2, **SHORT),
    Case(name="FlashInfer, all to all", path="flashinfer", merge="a2a", gap=3, **MIXED),
    Case(name="FlashInfer, without RoPE", path="flashinfer", rope_dim=0, **MIXED),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What all ranks together have: keys by request, and of each row a query and picks."""

    keys: list[Any]
    queries: Any
    picks: Any
    requests: Any
    sinks: Any


def inputs(case: Case, world: int) -> Inputs:
    """Make a step's tensors; the same in every process."""
    import torch

    dice = torch.Generator().manual_seed(world)
    width, heads = 512 + case.rope_dim, case.heads * world
    keys = [torch.randn(length, 576, generator=dice).bfloat16() for length in case.lengths]
    rows, picks = [], []
    for request, (length, new) in enumerate(zip(case.lengths, case.new, strict=True)):
        for position in range(length - new, length):
            seen = torch.randperm(position + 1, generator=dice)[: case.picks].int()
            picks.append(torch.nn.functional.pad(seen, (0, case.picks - len(seen)), value=-1))
            rows.append(request)
    return Inputs(
        keys=keys,
        queries=torch.randn(len(rows), heads, width, generator=dice).bfloat16(),
        picks=torch.stack(picks),
        requests=torch.tensor(rows),
        sinks=torch.linspace(-3, 12, heads) if case.sinks else None,
    )


def configuration(case: Case, world: int) -> SimpleNamespace:
    """What the classes read of a configuration; that of parallelism is the real one."""
    import torch
    from vllm.config import ParallelConfig

    hf = SimpleNamespace(
        index_topk=case.picks, kv_lora_rank=512, num_attention_heads=case.heads * world,
        q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=case.rope_dim, v_head_dim=128,
        model_type="deepseek_v32" if case.rope_dim else "glm5_next_text",
    )  # fmt: skip
    parallel = ParallelConfig(
        tensor_parallel_size=world,
        decode_context_parallel_size=world,
        cp_kv_cache_interleave_size=case.turn,
        dcp_comm_backend=case.merge,
    )
    return SimpleNamespace(
        attention_config=SimpleNamespace(
            hisparse_config=None, sparse_mla_prefill_workspace_factor=5
        ),
        cache_config=SimpleNamespace(cache_dtype="fp8_ds_mla", block_size=PAGE),
        compilation_config=SimpleNamespace(
            static_forward_context={}, max_cudagraph_capture_size=None
        ),
        kernel_config=SimpleNamespace(enable_jit_warmup=False),
        model_config=SimpleNamespace(
            dtype=torch.bfloat16, get_num_attention_heads=lambda parallel: case.heads,
            hf_config=hf, hf_text_config=hf, max_model_len=4096,
            model_arch_config=SimpleNamespace(total_num_attention_heads=case.heads * world),
        ),
        num_speculative_tokens=0,
        parallel_config=parallel,
        scheduler_config=SimpleNamespace(max_num_batched_tokens=TOKENS, max_num_seqs=REQUESTS),
        speculative_config=None,
    )  # fmt: skip


def hold(case: Case, given: Inputs) -> tuple[Any, Any]:
    """Write the keys that vLLM's own table of pages says are this rank's; (cache, table)."""
    import torch
    from vllm.sm12x import layouts
    from vllm.v1.worker.block_table import BlockTable

    table = BlockTable(
        PAGE,
        REQUESTS,
        BLOCKS,
        512,
        False,
        torch.device("cpu"),
        cp_kv_cache_interleave_size=case.turn,
    )
    pages = torch.randperm(REQUESTS * BLOCKS, generator=torch.Generator().manual_seed(1)) + 1
    stride = (1 + case.gap) * PAGE * layouts.V32.token_bytes
    cache = layouts.empty_cache(
        layouts.V32, len(pages) + 1, PAGE, page_stride=stride, fill=255
    )  # what nobody wrote isn't a number
    for request in range(len(given.keys)):
        table.add_row(pages[request * BLOCKS : (request + 1) * BLOCKS].tolist(), request)
    table.commit_block_table(len(given.keys))
    starts = torch.tensor([0, *map(len, given.keys)], dtype=torch.int32).cumsum(0).int()
    positions = torch.cat([torch.arange(len(keys)) for keys in given.keys])
    table.compute_slot_mapping(len(given.keys), starts, positions)
    slots = table.slot_mapping.gpu[: len(positions)]
    here = slots >= 0
    layouts.pack(cache, slots[here], torch.cat(given.keys)[here])
    return cache, table.block_table.gpu[: len(given.keys)].clone()


def describe(case: Case, table: Any) -> Any:
    """vLLM's description of the step."""
    import torch
    from vllm.v1.attention.backend import CommonAttentionMetadata

    starts = torch.tensor([0, *case.new], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    lengths = torch.tensor(case.lengths, dtype=torch.int32)
    return CommonAttentionMetadata(
        query_start_loc=starts, query_start_loc_cpu=starts, seq_lens=lengths,
        seq_lens_cpu_upper_bound=lengths, num_reqs=len(case.new), num_actual_tokens=sum(case.new),
        max_query_len=max(case.new), max_seq_len=max(case.lengths), block_table_tensor=table,
        slot_mapping=torch.zeros(sum(case.new), dtype=torch.int64),
    )  # fmt: skip


# What `flashinfer_answers` was written after: in 0.6.14 to 0.6.18.post1, in 0.7.0.post1, and in
# 0.7.1 to 0.7.2.post1. Read another before its hash comes in here.
KERNEL = "_trtllm_batch_decode_sparse_mla_v32_sm120"
READ = {
    "ba56d9e265f4a0ecdfda623827ae49141df7f614801e65491df6209756042fd6",
    "06210a23f50b05448fee7d7defc61ec468427dc98d3b52fd74c1bb6858cf998c",
    "f3d9c00f14b5094931b03da46f3ce9ddc59b7969512bdba37272520c39c4c7ee",
}


def wheels_with_lse() -> dict[str, dict[str, Any]]:
    """What is kept of those that bases pin and whose kernels for V3.2 give an LSE on SM12x."""
    path = Path(__file__).parents[1] / "overlay" / "flashinfer_wheels.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    pinned = {version: kept["wheels"][version]["takes"] for version in kept["pins"].values()}
    return {version: takes for version, takes in pinned.items() if KERNEL in takes}


def signature_of(parameters: str) -> inspect.Signature:
    """How a function is called by name; of its parameters those with "=" have a default."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name.rstrip("="),
                inspect.Parameter.KEYWORD_ONLY,
                default=None if name.endswith("=") else inspect.Parameter.empty,
            )
            for name in parameters.split()
        ]
    )


def as_published(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Let `answer` take what the function of every pinned wheel takes, and nothing else."""
    name = "trtllm_batch_decode_with_kv_cache_mla"
    published = [signature_of(takes[name]["parameters"]) for takes in wheels_with_lse().values()]
    assert published

    def call(**named: Any) -> Any:
        for signature in published:
            signature.bind(**named)
        return answer(**named)

    return call


def flashinfer_answers(
    *, query: Any, kv_cache: Any, workspace_buffer: Any, qk_nope_head_dim: int, kv_lora_rank: int,
    qk_rope_head_dim: int, block_tables: Any, seq_lens: Any, max_seq_len: int,
    sparse_mla_top_k: int, out: Any, bmm1_scale: float, bmm2_scale: float, return_lse: bool,
    kv_scale_format: str,
) -> tuple[Any, Any]:  # fmt: skip
    """Answer for FlashInfer's kernels as 0.6.18 and 0.7.2 do by their sources.

    Arguments, shapes and checks are those of KERNEL. The LSE is a base-2 logarithm (rows, heads); a
    row without keys has -1e30 and its output is left alone.
    """
    import torch
    from vllm.sm12x.layouts.scope import Scope
    from vllm.sm12x.reference.decode import sparse_decode

    assert query.dim() == 4 and query.shape[1] == 1 and query.shape[2] <= 128
    assert query.dtype == out.dtype == torch.bfloat16 and block_tables.dtype == torch.int32
    widths = (query.shape[3], kv_lora_rank, qk_rope_head_dim)
    assert widths == (576, 512, 64) or (widths, kv_scale_format) == ((512, 512, 0), ARBITRARY)
    assert block_tables.shape == (len(query), 1, sparse_mla_top_k) and seq_lens is None
    assert kv_cache.dtype == torch.uint8 and kv_cache.shape[1:] == (1, PAGE, 656)
    assert out.shape == (*query.shape[:3], 512) and bmm2_scale == 1.0 and return_lse
    picks = block_tables.squeeze(1)
    found, lse = sparse_decode(
        query.squeeze(1), [Scope(cache=kv_cache.squeeze(1), indices=picks)], scale=bmm1_scale,
        sink=None, dtype=torch.float64,
    )  # fmt: skip
    empty = (picks < 0).all(1)
    out.copy_(found.unsqueeze(1)).masked_fill_(empty.view(-1, 1, 1, 1), torch.nan)
    return out, (lse * LOG2E).float().masked_fill_(empty.unsqueeze(1), -1e30)


def layer_of(case: Case, config: Any, given: Inputs, rank: int) -> tuple[Any, Any, Any]:
    """Make a layer's implementation, its builder of metadata and vLLM's manager of the ranks."""
    import torch
    from vllm.sm12x.mla import backend, flashinfer
    from vllm.v1.attention.ops.dcp import MLADCPManager

    chosen = backend.SparseBackend if case.path == "triton" else flashinfer.SharedBackend
    buffer = torch.full((TOKENS, case.picks), 7, dtype=torch.int32)
    buffer[: len(given.picks)] = given.picks
    own = slice(rank * case.heads, (rank + 1) * case.heads)
    sinks = {"sinks": torch.zeros(case.heads)} if case.sinks else {}
    impl = chosen.get_impl_cls()(
        num_heads=case.heads, head_size=512 + case.rope_dim, scale=SCALE, num_kv_heads=1,
        alibi_slopes=None, sliding_window=None, kv_cache_dtype="fp8_ds_mla", logits_soft_cap=None,
        attn_type="decoder", kv_sharing_target_layer_name=None, q_lora_rank=1536,
        kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=case.rope_dim,
        qk_head_dim=128 + case.rope_dim, v_head_dim=128, kv_b_proj=SimpleNamespace(),
        topk_indices_buffer=buffer, indexer=SimpleNamespace(topk_indices_buffer=buffer), **sinks,
    )  # fmt: skip
    if case.sinks:
        sinks["sinks"].copy_(given.sinks[own])  # weights come after the layer is made
    assert impl.need_to_return_lse_for_decode
    manager = MLADCPManager(
        vllm_config=config, device=torch.device("cpu"), num_heads=case.heads,
        query_head_dim=512 + case.rope_dim, output_head_dim=512, query_dtype=torch.bfloat16,
        output_dtype=torch.bfloat16, padded_num_heads=None, is_lse_base_on_e=impl.lse_base_on_e,
        use_pcp=False,
    )  # fmt: skip
    layer = SimpleNamespace(prefill_backend=None, dcp_manager=manager)
    config.compilation_config.static_forward_context[LAYER] = layer
    spec = SimpleNamespace(block_size=PAGE)
    builder = chosen.get_builder_cls()(spec, [LAYER], config, torch.device("cpu"))
    return impl, builder, manager


def step(case: Case, world: int, rank: int) -> dict[str, Any]:
    """Run a step as a rank: what it gives to be merged, and what it gets for its heads."""
    config_module = importlib.import_module("vllm.config.vllm")
    given, config = inputs(case, world), configuration(case, world)
    vars(config_module)["_current_vllm_config"] = config
    cache, table = hold(case, given)
    impl, builder, manager = layer_of(case, config, given, rank)
    metadata = builder.build(0, describe(case, table))
    own = given.queries[:, rank * case.heads : (rank + 1) * case.heads].contiguous()
    out, lse = impl.forward_mqa(manager.query_gather(own), cache, metadata, None)
    part = {"out": out.clone(), "lse": lse.clone()}
    merged = manager.combine(
        out, lse, seq_lens=metadata.seq_lens, query_start_loc=metadata.query_start_loc
    )
    return part | {"merged": merged}


def be_rank(world: int, rank: int, folder: Path) -> None:
    """Run all cases as one of `world` processes."""
    import torch
    from vllm.config import ParallelConfig, VllmConfig
    from vllm.distributed import parallel_state
    from vllm.v1.worker import workspace

    torch.set_num_threads(1)
    config_module, whole = importlib.import_module("vllm.config.vllm"), VllmConfig()
    whole.parallel_config = ParallelConfig(
        tensor_parallel_size=world, decode_context_parallel_size=world
    )
    vars(config_module)["_current_vllm_config"] = whole
    where = f"file://{folder}/store-{world}"
    parallel_state.init_distributed_environment(world, rank, where, rank, "gloo")
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=world, decode_context_model_parallel_size=world
    )
    vars(workspace)["_manager"] = workspace.WorkspaceManager(torch.device("cpu"))
    found = {case.name: step(case, world, rank) for case in CASES}
    torch.save(found, folder / f"{world}-{rank}.pt")


def constants(function: Any) -> list[int]:
    """Which of a kernel's parameters are constants: what vLLM asks a compiled one for."""
    given = enumerate(inspect.signature(function.fn).parameters.values())
    return [place for place, each in given if "constexpr" in str(each.annotation)]


def prepare() -> None:
    """Let vLLM take Triton, and import everything once, for all ranks."""
    from triton.backends import backends

    # Its CPU platform takes Triton where that has a backend for CPUs. The interpreter needs none.
    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))
    declare_torchvision_operators()
    import torch
    from vllm.sm12x.mla import backend, ready
    from vllm.sm12x.ops.flash_mla import get_mla_metadata
    from vllm.sm12x.selftest.interpreter import mend
    from vllm.triton_utils import HAS_TRITON
    from vllm.utils import flashinfer as asked
    from vllm.v1.attention.backends.mla import flashinfer_mla_sparse, flashmla_sparse

    assert HAS_TRITON
    mend()
    interpreter = importlib.import_module("triton.runtime.interpreter")
    interpreter.InterpretedFunction.constexprs = property(constants)
    importlib.import_module("triton.experimental.gluon")
    vars(torch.accelerator)["empty_cache"] = lambda: None
    vars(ready)["compile_once"] = lambda config, device: None
    vars(flashmla_sparse)["num_compute_units"] = lambda index: 48
    vars(flashmla_sparse)["get_mla_metadata"] = get_mla_metadata
    vars(asked)["has_flashinfer_sparse_mla_sm120"] = lambda: True
    vars(asked)["flashinfer_trtllm_batch_decode_with_kv_cache_mla"] = as_published(
        flashinfer_answers
    )
    vars(flashinfer_mla_sparse)["_get_workspace_buffer"] = lambda device: torch.zeros(1)
    assert backend.SparseImpl.can_return_lse_for_decode


def fork(world: int, folder: Path) -> Iterator[int]:
    """Start the ranks and yield their ids. A rank that fails leaves its traceback."""
    for rank in range(world):
        child = os.fork()
        if child:
            yield child
            continue
        try:
            be_rank(world, rank, folder)
        except BaseException:
            (folder / f"{world}-{rank}.txt").write_text(traceback.format_exc(), encoding="utf-8")
            os._exit(1)
        os._exit(0)


def main(folder: Path, worlds: tuple[int, ...] = WORLDS) -> None:
    """Run all worlds, one after the other. Where a rank fails, the others would wait for it."""
    prepare()
    for world in worlds:
        children = set(fork(world, folder))
        while children:
            child, status = os.wait()
            children.discard(child)
            if status:
                for other in children:
                    os.kill(other, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
