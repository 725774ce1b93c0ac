# SPDX-License-Identifier: Apache-2.0
"""What the indexer's logits take, in vLLM's own profile run and in the steps after it."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import devices
import pytest
from devices import OTHER_CUDA, SM12X, SM120, Device
from packaging.specifiers import SpecifierSet
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

MODULE = "vllm.model_executor.layers.sparse_attn_indexer"
# Releases that have the seam, and of those the ones whose DeepGEMM has kernels for SM12x.
PATCHED, SERVED = SpecifierSet("<0.28"), SpecifierSet(">=0.25,<0.27")
CAP = 256 * 2**20
PAGE, DIM, HEADS, TOPK = 16, 128, 8, 4
MILLION = 2**20 // 4  # V4 keeps every fourth token


@pytest.fixture
def step(base: Version, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Run the indexer's own function on a device; what it allocates is in `step.sizes`."""
    import torch
    from vllm.sm12x.ops import logits_buffer
    from vllm.v1.worker import workspace

    layer = importlib.import_module(MODULE)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    manager = workspace.WorkspaceManager(torch.device("cpu"))
    monkeypatch.setattr(workspace, "_manager", manager)
    monkeypatch.delenv("VLLM_SPARSE_INDEXER_MAX_LOGITS_MB", raising=False)
    function = inspect.unwrap(layer.sparse_attn_indexer)
    sizes: list[int] = []
    empty = torch.empty

    def noting(*shape: Any, **options: Any) -> Any:
        made = empty(*shape, **options)
        sizes.append(made.nbytes)
        return made

    def run(device: Device, metadata: Any, picks: Any, **known: Any) -> Any:
        from vllm.config import CUDAGraphMode

        monkeypatch.setattr(layer, "current_platform", devices.use(device, monkeypatch))
        context = SimpleNamespace(attn_metadata=metadata, cudagraph_runtime_mode=CUDAGraphMode.NONE)
        monkeypatch.setattr(layer, "get_forward_context", lambda: context)
        given = {
            "hidden_states": torch.zeros(len(picks), 4), "k_cache_prefix": "layer",
            "kv_cache": None, "q_quant": None, "q_scale": None, "k": None, "weights": None,
            "quant_block_size": 128, "scale_fmt": "ue8m0", "topk_tokens": picks.shape[1],
            "head_dim": DIM, "total_seq_lens": 64, "topk_indices_buffer": picks,
            "skip_k_cache_insert": True, "use_pcp": False, "pcp_shard_decode_requests": False,
            "dense_mha_metadata_layer_name": "", "use_fp4_cache": False,
        } | known  # fmt: skip
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", noting)
            sizes.clear()
            return function(**{name: given[name] for name in names if name in given})

    run.sizes = sizes  # type: ignore[attr-defined]
    logits_buffer.release(torch.device("cpu"))
    yield run
    logits_buffer.release(torch.device("cpu"))


def ours(base: Version) -> bool:
    return base in PATCHED and base not in SERVED


def held() -> int:
    import torch
    from vllm.sm12x.ops import logits_buffer

    return logits_buffer.reserved(torch.device("cpu")) * 4


@pytest.mark.parametrize("device", SM12X, ids=str)
@pytest.mark.parametrize(
    ("tokens", "longest", "count"),
    [
        (8192, MILLION, CAP + 8192 * 16),
        (8192, 163840, CAP + 8192 * 16),
        (64, 1000, 64 * 1000 * 4),  # a step has no more
        (2, MILLION, 16 * MILLION * 4),  # drafts of one request
    ],
)
def test_a_profile_run_holds_what_steps_write_to(
    base: Version, step: Callable[..., Any], device: Device, tokens: int, longest: int, count: int
) -> None:
    import torch

    picks = torch.zeros(tokens, TOPK, dtype=torch.int32)
    for _ in range(2):  # every layer has one
        step(device, None, picks, max_model_len=longest, total_seq_lens=longest)
    if ours(base):
        assert held() == count
        assert CAP not in step.sizes, "it is counted once"  # type: ignore[attr-defined]
        assert 0 in step.sizes  # type: ignore[attr-defined]
    else:
        assert held() == 0
        assert CAP in step.sizes  # type: ignore[attr-defined]


@pytest.mark.parametrize("device", OTHER_CUDA, ids=str)
def test_elsewhere_upstreams_cap_is_counted(step: Callable[..., Any], device: Device) -> None:
    import torch

    picks = torch.zeros(8192, TOPK, dtype=torch.int32)
    step(device, None, picks, max_model_len=MILLION, total_seq_lens=MILLION)
    assert held() == 0
    assert 2 * CAP in step.sizes  # type: ignore[attr-defined]


def cut(base: Version, contexts: Any, queries: Any, gathered: int) -> list[tuple[slice, slice]]:
    """Upstream's own cut of a step's prompts."""
    module = importlib.import_module("vllm.v1.attention.backends.mla.indexer")
    if hasattr(module, "split_indexer_prefill_chunks"):
        chunks = module.split_indexer_prefill_chunks(contexts, queries, gathered, CAP)
    else:
        builder = module.DeepseekV32IndexerMetadataBuilder
        chunks = builder._split_indexer_prefill_chunks(contexts, queries, gathered, CAP)
    made: list[tuple[slice, slice]] = chunks
    return made


def test_chunks_of_a_prompt_are_written_to_one_place(
    base: Version, step: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from vllm.sm12x.ops import logits_buffer

    if not ours(base):
        pytest.skip("the logits are DeepGEMM's")
    tokens, cpu = 8192, torch.device("cpu")
    picks = torch.zeros(tokens, TOPK, dtype=torch.int32)
    step(SM120, None, picks, max_model_len=MILLION, total_seq_lens=MILLION)
    monkeypatch.setattr(torch, "empty", None)  # nothing is allocated from here on
    places, shapes = set(), set()
    for context in range(tokens, MILLION, 9973):
        lengths = torch.tensor([context, 17]), torch.tensor([tokens - 5, 5])
        for requests, rows in cut(base, *lengths, MILLION):
            columns = int(lengths[0][requests].sum())
            out = logits_buffer.logits(rows.stop - rows.start, columns, cpu, clean=False)
            assert out.shape == (rows.stop - rows.start, columns)
            assert out.stride(0) % 4 == 0
            places.add(out.data_ptr())
            shapes.add(out.shape)
    assert len(shapes) > 32
    assert len(places) == 1


@pytest.mark.parametrize(("requests", "next_n"), [(256, 3), (256, 1), (300, 4), (1, 3)])
def test_decode_steps_stay_within_what_was_counted(
    base: Version,
    step: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    requests: int,
    next_n: int,
) -> None:
    """The step of a server at its limits: 256 requests of three tokens over a million of V4's."""
    import torch

    if not ours(base):
        pytest.skip("the logits are DeepGEMM's")
    seam = importlib.import_module("vllm.sm12x.mla.logits")
    picks = torch.zeros(8192, TOPK, dtype=torch.int32)
    step(SM120, None, picks, max_model_len=MILLION, total_seq_lens=MILLION)
    rows: list[int] = []
    seen: list[Any] = []

    def logits(q: Any, _cache: Any, weights: Any, lengths: Any, table: Any, *_: Any) -> Any:
        assert len(q[0]) * next_n == len(weights)
        assert len(lengths) == len(table) == len(q[0])
        rows.append(len(weights))
        seen.extend(table.tolist())
        return torch.zeros(len(weights), 1).expand(-1, MILLION)

    monkeypatch.setattr(seam, "fp8_fp4_paged_mqa_logits", logits)
    monkeypatch.setattr(seam, "pick", lambda one, _n, _lengths, some: some.fill_(1))
    plan = SimpleNamespace(
        seq_lens=torch.ones(requests, next_n), block_table=torch.arange(requests),
        schedule_metadata=None, requires_padding=False,
    )  # fmt: skip
    q, weights = torch.zeros(requests, next_n, 1, 1), torch.zeros(requests * next_n, 1)
    needed = seam.in_passes(q, None, weights, plan, picks, MILLION)
    assert needed is (requests * next_n * MILLION * 4 > held())
    if needed:
        assert max(rows) * MILLION * 4 <= held()
        assert seen == list(range(requests))
        assert int(picks.sum()) == requests * next_n * TOPK


@pytest.mark.parametrize("padded", [False, True])
def test_passes_pick_what_one_call_picks(
    base: Version, step: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, padded: bool
) -> None:
    import torch
    from vllm.sm12x.ops import logits_buffer
    from vllm.v1.attention.backends.mla import indexer

    if not ours(base):
        pytest.skip("the logits are DeepGEMM's")
    layer, seam = (importlib.import_module(n) for n in (MODULE, "vllm.sm12x.mla.logits"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "overlay"))
    importlib.import_module("interpreted").kernels("paged_mqa_logits")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ops = importlib.import_module("vllm.sm12x.ops.deep_gemm")
    requests, next_n, longest = 5, 2, 48
    generator = torch.Generator().manual_seed(3)
    cache = torch.zeros(9, PAGE * (DIM + 4), dtype=torch.uint8)
    values = torch.randn(9, PAGE * DIM, generator=generator).to(torch.float8_e4m3fn)
    cache[:, : PAGE * DIM] = values.view(torch.uint8)
    cache[:, PAGE * DIM :] = torch.rand(9, PAGE, generator=generator).view(torch.uint8)
    counts = torch.tensor([2, 1, 2, 2, 1] if padded else [2] * 5, dtype=torch.int32)
    tokens = int(counts.sum())
    lengths = torch.tensor([[9, 10], [40, 41], [1, 2], [30, 31], [47, 48]], dtype=torch.int32)
    plan = SimpleNamespace(
        decode_lens=counts, requires_padding=padded, seq_lens=lengths, schedule_metadata=None,
        block_table=torch.randint(0, 9, (requests, 3), generator=generator, dtype=torch.int32),
    )  # fmt: skip
    metadata: Any = object.__new__(indexer.DeepseekV32IndexerMetadata)
    vars(metadata).update(
        slot_mapping=torch.zeros(tokens), num_decodes=requests, num_prefills=0, max_seq_len=48,
        num_decode_tokens=tokens, prefill=None, decode=plan,
    )  # fmt: skip
    q = torch.randn(tokens, HEADS, DIM, generator=generator).to(torch.float8_e4m3fn)
    weights = torch.randn(requests * next_n, HEADS, generator=generator)

    def pick(logits: Any, _n: int, seen: Any, picks: Any, *_: Any) -> None:
        for row, length in enumerate(seen.flatten().tolist()):
            best = logits[row, :length].topk(min(TOPK, length)).indices
            picks[row, : len(best)] = best.int()

    def pad(rows: Any, counts: Any, *_: Any, **__: Any) -> Any:
        parts = [torch.zeros(next_n, *rows.shape[1:], dtype=rows.dtype) for _ in counts]
        for part, some in zip(parts, rows.split(counts.tolist()), strict=True):
            part.view(torch.uint8)[: len(some)] = some.view(torch.uint8)
        return torch.stack(parts)

    def unpad(rows: Any, counts: Any) -> Any:
        return torch.cat([row[:n] for row, n in zip(rows, counts.tolist(), strict=True)])

    common = importlib.import_module("vllm.v1.attention.ops.common")
    for module in (layer, common):
        monkeypatch.setattr(module, "pack_seq_triton", pad)
        monkeypatch.setattr(module, "unpack_seq_triton", unpad)
    operations = importlib.import_module("vllm._custom_ops")
    monkeypatch.setattr(operations, "top_k_per_row_decode", pick, raising=False)
    monkeypatch.setattr(torch.ops._C, "top_k_per_row_decode", pick, raising=False)
    monkeypatch.setattr(layer, "fp8_fp4_paged_mqa_logits", ops.fp8_fp4_paged_mqa_logits)
    calls: list[int] = []

    def counted(*args: Any) -> Any:
        calls.append(len(args[2]))
        return ops.fp8_fp4_paged_mqa_logits(*args)

    monkeypatch.setattr(seam, "fp8_fp4_paged_mqa_logits", counted)
    found = []
    # One request's rows, two requests', all of them, and nothing reserved.
    for rows, passes in ((2, [2] * 5), (5, [4, 4, 2]), (10, []), (0, [])):
        cpu = torch.device("cpu")
        logits_buffer.release(cpu)
        if rows:
            logits_buffer.reserve(rows * longest, cpu)
        calls.clear()
        picks = torch.zeros(16, TOPK, dtype=torch.int32)
        step(
            SM120, {"layer": metadata}, picks, max_model_len=longest, q_quant=q, weights=weights,
            kv_cache=cache.view(9, PAGE, DIM + 4),
        )  # fmt: skip
        assert calls == passes
        found.append(picks[:tokens].sort(-1).values)
    assert (found[-1] >= 0).sum() > tokens
    for one in found[:-1]:
        assert torch.equal(one, found[-1])
