# SPDX-License-Identifier: Apache-2.0
"""What a V3.2 or GLM layer reserves on SM12x, and that its prompts are read where they are."""

import dataclasses
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

TOKENS, TOPK, LAYER = 16, 64, "layer"
COMMON = "vllm.model_executor.layers.attention.sparse_mla_attention"


def serving(*, heads: int, rope_dim: int = 64, max_model_len: int = 4096) -> SimpleNamespace:
    """What upstream's classes read of a configuration."""
    hf = SimpleNamespace(
        index_topk=TOPK,
        kv_lora_rank=512,
        num_attention_heads=heads,
        q_lora_rank=1536,
        qk_nope_head_dim=128,
        qk_rope_head_dim=rope_dim,
        v_head_dim=128,
    )
    model = SimpleNamespace(
        dtype=importlib.import_module("torch").bfloat16,
        get_num_attention_heads=lambda parallel: heads,
        hf_config=hf,
        hf_text_config=hf,
        max_model_len=max_model_len,
        model_arch_config=SimpleNamespace(total_num_attention_heads=heads),
    )
    return SimpleNamespace(
        attention_config=SimpleNamespace(
            hisparse_config=None, sparse_mla_prefill_workspace_factor=5
        ),
        cache_config=SimpleNamespace(cache_dtype="fp8_ds_mla", block_size=64),
        compilation_config=SimpleNamespace(
            static_forward_context={LAYER: SimpleNamespace(prefill_backend=None)}
        ),
        model_config=model,
        parallel_config=SimpleNamespace(
            cp_kv_cache_interleave_size=1,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            tensor_parallel_size=1,
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=TOKENS, max_num_seqs=4),
        speculative_config=None,
    )


@pytest.fixture
def backend(base: Version, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our backend's module, beside a vLLM that has no group of ranks and no GPU to count on."""
    import torch
    from vllm.sm12x.mla import backend, ready
    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.attention.backends.mla import flashmla_sparse

    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    monkeypatch.setattr(ready, "compile_once", lambda config, device: None)
    monkeypatch.setattr(flashmla_sparse, "num_compute_units", lambda index: 48)
    monkeypatch.setattr(flashmla_sparse, "get_mla_metadata", lambda *a, **k: ("plan", None))
    # A kernel of vLLM's, which has no Triton on its CPU platform.
    rows = "token_to_req_indices"
    monkeypatch.setattr(CommonAttentionMetadata, rows, lambda _, out: out, raising=False)
    if base >= Version("0.26"):
        common = importlib.import_module(COMMON)
        world = "get_tensor_model_parallel_world_size"
        monkeypatch.setattr(common, world, lambda: 1, raising=False)
    return backend


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make a configuration the current one."""
    module = importlib.import_module("vllm.config.vllm")

    def put(config: Any) -> None:
        monkeypatch.setattr(module, "_current_vllm_config", config)

    return put


@pytest.fixture
def make(
    backend: Any, use: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Make an implementation with a workspace manager of its own."""
    import torch
    from vllm.v1.worker import workspace

    def build(*, rope_dim: int = 64, dtype: str = "fp8_ds_mla", **shape: Any) -> Any:
        config = serving(rope_dim=rope_dim, **shape)
        heads = config.model_config.hf_config.num_attention_heads
        manager = workspace.WorkspaceManager(torch.device("cpu"))
        monkeypatch.setattr(workspace, "_manager", manager)
        use(config)
        picks = torch.zeros(TOKENS, TOPK, dtype=torch.int32)
        made = backend.SparseImpl(
            num_heads=heads, head_size=512 + rope_dim, scale=0.06, num_kv_heads=1,
            alibi_slopes=None, sliding_window=None, kv_cache_dtype=dtype, logits_soft_cap=None,
            attn_type="decoder", kv_sharing_target_layer_name=None, q_lora_rank=1536,
            kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=rope_dim,
            qk_head_dim=128 + rope_dim, v_head_dim=128, kv_b_proj=SimpleNamespace(),
            indexer=SimpleNamespace(topk_indices_buffer=picks),
        )  # fmt: skip
        made.held = manager._current_workspaces[0].numel()
        return made

    return build


@pytest.mark.parametrize("heads", [8, 32, 64, 128])
def test_what_a_layer_reserves_does_not_grow_with_the_longest_context(
    make: Callable[..., Any], heads: int
) -> None:
    held = {make(heads=heads, max_model_len=length).held for length in (64, 4096, 163840)}
    assert held == {TOKENS * heads * (576 + 512) * 2}


def test_a_layer_over_bfloat16_reserves_its_queries(make: Callable[..., Any]) -> None:
    held = {make(heads=32, dtype="auto", max_model_len=n).held for n in (64, 163840)}
    assert held == {TOKENS * 32 * 576 * 2}


def test_a_layer_knows_its_cache_after_that(make: Callable[..., Any]) -> None:
    assert make(heads=32).kv_cache_dtype == "fp8_ds_mla"
    assert make(heads=32, dtype="auto").kv_cache_dtype == "auto"


def test_a_layers_prompts_are_rows_and_not_a_dense_prefill(make: Callable[..., Any]) -> None:
    """Upstream would pick a kernel for that, and gather into a workspace that isn't there."""
    for rope_dim in (64, 0):
        assert make(heads=32, rope_dim=rope_dim).supports_dense_mha_prefill is False
        assert make(heads=32, rope_dim=rope_dim, dtype="auto").supports_dense_mha_prefill is False


def test_upstreams_workspace_stays_where_keys_are_not_all_here(
    backend: Any, make: Callable[..., Any]
) -> None:
    config = serving(heads=32)
    assert backend.reads_in_place(config)
    config.parallel_config.decode_context_parallel_size = 2
    assert backend.reads_in_place(config), "ranks attend each over what they hold"
    config.parallel_config.prefill_context_parallel_size = 2
    assert not backend.reads_in_place(config)
    config = serving(heads=32)
    config.attention_config.hisparse_config = SimpleNamespace()
    assert not backend.reads_in_place(config)


def batch(queries: list[int], contexts: list[int]) -> Any:
    """vLLM's description of a step with so many new tokens of each request."""
    import torch
    from vllm.v1.attention import backend

    starts = torch.tensor([0, *queries], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    lengths = torch.tensor(contexts, dtype=torch.int32)
    given = {
        "query_start_loc": starts,
        "query_start_loc_cpu": starts,
        "seq_lens": lengths,
        "_seq_lens_cpu": lengths,
        "seq_lens_cpu_upper_bound": lengths,
        "num_reqs": len(queries),
        "num_actual_tokens": sum(queries),
        "max_query_len": max(queries),
        "max_seq_len": max(contexts),
        "block_table_tensor": torch.zeros(len(queries), 64, dtype=torch.int32),
        "slot_mapping": torch.arange(sum(queries)),
    }
    fields = {field.name for field in dataclasses.fields(backend.CommonAttentionMetadata)}
    return backend.CommonAttentionMetadata(**{k: v for k, v in given.items() if k in fields})


@pytest.mark.parametrize("heads", [8, 32, 128])
@pytest.mark.parametrize("queries", [[1, 1], [1, 9], [12]], ids=str)
def test_a_step_is_one_batch_over_the_packed_cache(
    backend: Any, use: Callable[[Any], None], heads: int, queries: list[int]
) -> None:
    import torch

    config = serving(heads=heads, max_model_len=163840)
    use(config)
    spec = SimpleNamespace(block_size=64)
    builder = backend.SparseBackend.get_builder_cls()(spec, [LAYER], config, torch.device("cpu"))
    metadata = builder.build(0, batch(queries, [n + 300 for n in queries]))
    assert metadata.fp8_use_mixed_batch is True
    kinds = importlib.import_module("vllm.sm12x.mla.builder").FlashMLASparseMetadata
    assert isinstance(metadata.fp8_extra_metadata, kinds.FP8KernelMetadata)
    # Nothing but what is a few bytes a token or a request.
    held = [v.numel() for v in vars(builder).values() if isinstance(v, torch.Tensor)]
    assert max(held) < 1000


@pytest.mark.parametrize("packed", [True, False])
def test_keys_without_rope_are_written_as_wide_as_the_op_wants_them(
    base: Version, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    import torch

    _custom_ops = importlib.import_module("vllm._custom_ops")

    written: list[Any] = []
    monkeypatch.setattr(_custom_ops, "concat_and_cache_mla", lambda *a, **k: written.append(a))
    dtype = "fp8_ds_mla" if packed else "auto"
    impl = make(heads=8, rope_dim=0, dtype=dtype)
    latent, rope = torch.ones(3, 512).bfloat16(), torch.empty(3, 1, 0).bfloat16()
    slots, scale = torch.arange(3), torch.ones(1)
    impl.do_kv_cache_update(latent, rope, torch.zeros(2, 64, 656), slots, dtype, scale)
    ((first, second, *_),) = written
    assert first is latent
    wide = packed and base < Version("0.32")
    assert second.shape == (3, 64 if wide else 0)
    assert not second.any()


@pytest.mark.parametrize("rope_dim", [64, 0])
@pytest.mark.parametrize("heads", [8, 64])
def test_a_mixed_step_attends_into_what_was_reserved(
    base: Version,
    backend: Any,
    make: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    rope_dim: int,
    heads: int,
) -> None:
    import torch

    _custom_ops = importlib.import_module("vllm._custom_ops")
    from vllm.v1.attention.backends.mla import flashmla_sparse

    if rope_dim == 0 and base < Version("0.30"):
        pytest.skip("this release has no model without RoPE")
    calls: list[dict[str, Any]] = []

    def attend(**arguments: Any) -> tuple[Any, Any]:
        calls.append(arguments)
        return arguments["out"].fill_(3), torch.zeros(1, heads, 3)

    def concatenate(latent: Any, rope: Any, out: Any) -> None:
        out.copy_(torch.cat([latent, rope], dim=-1))

    monkeypatch.setattr(backend, "flash_mla_with_kvcache", attend)
    monkeypatch.setattr(_custom_ops, "concat_mla_q", concatenate, raising=False)
    convert = "triton_convert_req_index_to_global_index"
    monkeypatch.setattr(flashmla_sparse, convert, lambda requests, table, picks, **_: picks + 1)
    impl = make(heads=heads, rope_dim=rope_dim)
    cache = torch.zeros(2, 64, 656, dtype=torch.uint8)
    plan = SimpleNamespace(dummy_block_table=None, cache_lens=None, scheduler_metadata=None)
    metadata = SimpleNamespace(
        block_size=64, block_table=None, fp8_use_mixed_batch=True, num_actual_tokens=3,
        num_decode_tokens=1, req_id_per_token=torch.zeros(3, dtype=torch.int32),
        fp8_extra_metadata=flashmla_sparse.FlashMLASparseMetadata.FP8KernelMetadata(**vars(plan)),
    )  # fmt: skip
    latent, rope = torch.ones(3, heads, 512).bfloat16(), torch.ones(3, heads, rope_dim).bfloat16()
    out, _ = impl.forward_mqa((latent, rope), cache, metadata, None)
    (call,) = calls
    assert call["q"].shape == (1, 3, heads, 512 + rope_dim)
    assert bool((call["q"] == 1).all())
    assert call["indices"].shape == (1, 3, TOPK)
    assert out.shape == (3, heads, 512)
    assert bool((out == 3).all())
    held = backend.current_workspace_manager()._current_workspaces[0]
    assert held.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()
    assert held.numel() == impl.held
