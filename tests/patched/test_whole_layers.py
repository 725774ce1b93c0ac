# SPDX-License-Identifier: Apache-2.0
"""Whole sparse layers, indexer to output projection, against the transformers library's.

A step of two decodes and two prompts, whose pages no two share, goes through the patched classes
with the kernels on Triton's interpreter; the library runs each request's whole text by itself.
"""

import importlib
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from layers_of_transformers import (
    DECODES,
    HEADS,
    INDEX_DIM,
    INDEX_HEADS,
    OWNERS,
    PLACES,
    STEP,
    WIDTH,
    Fp8,
    Noted,
    attending,
    picked,
    same,
    slots_of,
    tables,
)  # fmt: skip
from packaging.version import Version
from test_sparse_mla_numbers import functions, hand, v4_module
from test_sparse_mla_workspace import LAYER, TOPK, backend, batch, make, serving, use

pytestmark = pytest.mark.filterwarnings("default")

__all__ = ["backend", "functions", "make", "use"]  # fixtures

PAGE, NOPE = 64, 16
RATIOS = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
V4_LAYERS = ["sliding_attention", *RATIOS]
WINDOW, V4_TOPK, COLUMNS = 64, 7, 64


@pytest.fixture
def ops(functions: Any) -> Any:
    importlib.import_module("interpreted").kernels("mqa_logits", "paged_mqa_logits")
    return importlib.import_module("vllm.sm12x.ops.deep_gemm")


def modeling_of(model: str) -> ModuleType:
    if importlib.util.find_spec(f"transformers.models.{model}") is None:
        pytest.skip(f"this release's transformers has no {model}")
    return importlib.import_module(f"transformers.models.{model}.modeling_{model}")


def texts() -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(11)
    return [torch.randn(1, one.context, WIDTH, generator=generator) for one in STEP]


def rows_of(outputs: list[Any]) -> Any:
    """The step's rows of whole texts' outputs."""
    import torch

    return torch.cat([out[0, -one.new :] for out, one in zip(outputs, STEP, strict=True)])


def put_back(parts: Any, owner: int, like: Any) -> Any:
    """A whole text's attention output with the step's rows in it."""
    out = like.clone()
    mine = [row for row, one in enumerate(OWNERS) if one == owner]
    out[0, -STEP[owner].new :] = parts[mine]
    return out


class Mla:
    """A layer of V3.2's kind, each request's latents in the packed cache."""

    def __init__(self, modeling: ModuleType, prefix: str) -> None:
        import torch
        from vllm.sm12x import layouts

        self.modeling, self.table = modeling, tables(PAGE, 5)
        self.cache = layouts.empty_cache(layouts.V32, self.table.numel(), PAGE, fill=255)
        config = getattr(modeling, f"{prefix}Config")(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, q_lora_rank=32,
            num_key_value_heads=HEADS, kv_lora_rank=512, qk_nope_head_dim=NOPE, v_head_dim=20,
            qk_rope_head_dim=64, index_topk=TOPK, index_n_heads=INDEX_HEADS,
            index_head_dim=INDEX_DIM, max_position_embeddings=512,
        )  # fmt: skip
        config._attn_implementation = "eager"
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layer = getattr(modeling, f"{prefix}Attention")(config, 0).eval()
            self.layer.q_b_proj.weight.data.mul_(20)  # logits far from equal
        self.rotary = getattr(modeling, f"{prefix}RotaryEmbedding")(config)
        self.owner, self.noted = 0, [Noted() for _ in STEP]
        self.hook()

    def hook(self) -> None:
        import torch
        from vllm.sm12x import layouts

        indexer, expand = self.layer.indexer, self.layer.expand_kv

        def expanding(latent: Any, rope: Any) -> Any:
            kv = torch.cat([latent, rope], dim=-1)[0, 0]
            slots = slots_of(self.table, self.owner, torch.arange(len(kv)), PAGE)
            layouts.pack(self.cache, slots, kv)
            kv = layouts.unpack(self.cache, slots)[None, None]
            return expand(*kv.split([512, 64], dim=-1))

        def query(_layer: Any, _args: Any, out: Any) -> Any:
            fp8 = Fp8(out[0].unflatten(-1, (INDEX_HEADS, INDEX_DIM)))
            self.noted[self.owner].index_q = fp8
            return fp8.rounded.flatten(1)[None]

        def key(_layer: Any, _args: Any, out: Any) -> Any:
            fp8 = Fp8(out[0])
            self.noted[self.owner].index_k = fp8
            return fp8.rounded[None]

        def weights(_layer: Any, _args: Any, out: Any) -> None:
            self.noted[self.owner].index_weights = out[0] * (INDEX_HEADS * INDEX_DIM) ** -0.5

        def unturned(_layer: Any, args: Any) -> Any:
            """Rotation comes before rounding, and is upstream's: none here."""
            cos, sin = args[2]
            return (*args[:2], (torch.ones_like(cos), torch.zeros_like(sin)), *args[3:])

        self.layer.expand_kv = expanding
        indexer.wq_b.register_forward_hook(query)
        indexer.k_norm.register_forward_hook(key)
        indexer.weights_proj.register_forward_hook(weights)
        indexer.register_forward_pre_hook(unturned)

    def run(self, attend: Callable[..., Any]) -> list[Any]:
        import torch

        outputs = []
        with torch.no_grad(), attending(self.modeling, attend):
            for self.owner, hidden in enumerate(texts()):
                positions = torch.arange(hidden.shape[1])[None]
                future = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).triu(1)
                mask = torch.zeros(future.shape).masked_fill(future, -1e30)[None, None]
                out = self.layer(
                    hidden_states=hidden, position_embeddings=self.rotary(hidden, positions),
                    attention_mask=mask, position_ids=positions,
                )  # fmt: skip
                outputs.append(out[0])
        return outputs


@pytest.mark.parametrize(
    ("model", "prefix"), [("deepseek_v32", "DeepseekV32"), ("glm_moe_dsa", "GlmMoeDsa")]
)
def test_a_layer_over_latents_is_the_librarys(
    base: Version,
    ops: Any,
    backend: Any,
    make: Callable[..., Any],
    use: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    prefix: str,
) -> None:
    import torch
    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.attention.backends.mla import flashmla_sparse

    judge = Mla(modeling_of(model), prefix)
    attended: list[Any] = []

    def noting(original: Any, layer: Any, q: Any, *others: Any, **named: Any) -> Any:
        q = q.bfloat16().float()
        judge.noted[judge.owner].query = q[0].transpose(0, 1)
        out = original(layer, q, *others, **named)
        attended.append(out[0])
        return out

    expected = rows_of(judge.run(noting))
    picks = picked(
        ops, judge.table, PAGE, judge.noted, [place + 1 for place in PLACES], TOPK, TOPK
    )  # fmt: skip
    # Ours: absorbed queries, upstream's builder and the patched implementation.
    keys, values = judge.layer.kv_b_proj.weight.detach().view(HEADS, -1, 512).split([NOPE, 20], 1)
    queries = torch.cat([n.query[-one.new :] for n, one in zip(judge.noted, STEP, strict=True)])
    latent = torch.einsum("rhn,hnl->rhl", queries[..., :NOPE], keys).bfloat16()
    rope = queries[..., NOPE:].bfloat16()
    impl = make(heads=HEADS)
    impl.softmax_scale = judge.layer.scaling
    impl.topk_indices_buffer[: len(picks)] = picks

    def owners(_common: Any, out: Any) -> Any:
        out[: len(OWNERS)] = torch.tensor(OWNERS, dtype=out.dtype)
        return out[: len(OWNERS)]

    def converted(requests: Any, table: Any, local: Any, **named: Any) -> Any:
        page = named["BLOCK_SIZE"]
        blocks = table[requests.long()[:, None], local.clamp(min=0).long() // page]
        return (blocks * page + local % page).masked_fill(local < 0, -1).int()

    def concatenated(one: Any, other: Any, out: Any) -> None:
        out.copy_(torch.cat([one, other], dim=-1))

    monkeypatch.setattr(CommonAttentionMetadata, "token_to_req_indices", owners, raising=False)
    monkeypatch.setattr(flashmla_sparse, "triton_convert_req_index_to_global_index", converted)
    operations = importlib.import_module("vllm._custom_ops")
    monkeypatch.setattr(operations, "concat_mla_q", concatenated, raising=False)
    config = serving(heads=HEADS)
    use(config)
    builder = backend.SparseBackend.get_builder_cls()(
        SimpleNamespace(block_size=PAGE), [LAYER], config, torch.device("cpu")
    )
    common = batch([one.new for one in STEP], [one.context for one in STEP])
    common.block_table_tensor = judge.table
    metadata = builder.build(0, common)
    out, _ = impl.forward_mqa((latent, rope), judge.cache, metadata, None)
    ours = torch.einsum("rhl,hvl->rhv", out.float(), values)

    def answering(_original: Any, *_args: Any, **_named: Any) -> Any:
        return put_back(ours, judge.owner, attended[judge.owner]), None

    same(rows_of(judge.run(answering)), expected)


class V4:
    """A layer of V4's, each request's tokens and states in caches of their own."""

    def __init__(self, modeling: ModuleType, kind: str) -> None:
        import torch
        from vllm.sm12x import layouts

        self.modeling, self.ratio = modeling, RATIOS.get(kind, 1)
        self.page = 256 // self.ratio  # states a page
        self.near_table, self.far_table = tables(PAGE, 7), tables(256, 8)
        self.near = layouts.empty_cache(layouts.V4, self.near_table.numel(), PAGE, fill=255)
        self.far = layouts.empty_cache(layouts.V4, self.far_table.numel(), self.page, fill=255)
        config = modeling.DeepseekV4Config(
            vocab_size=50, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=HEADS,
            q_lora_rank=32, layer_types=V4_LAYERS, mlp_layer_types=["moe"] * 3, o_groups=2,
            compress_rates=RATIOS, sliding_window=WINDOW, o_lora_rank=16, hc_mult=2,
            index_n_heads=INDEX_HEADS, index_head_dim=INDEX_DIM, index_topk=V4_TOPK,
            moe_intermediate_size=16, n_routed_experts=2, num_experts_per_tok=1,
            attn_implementation="eager",
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.layer = modeling.DeepseekV4Attention(config, V4_LAYERS.index(kind)).eval()
            for name, value in self.layer.named_parameters():
                if "bias" in name or "sinks" in name:
                    value.data.normal_()  # made without values
        self.rotary = modeling.DeepseekV4RotaryEmbedding(config)
        self.owner, self.noted = 0, [Noted() for _ in STEP]
        if self.ratio == 4:
            scorer = self.layer.compressor.indexer.scorer
            scorer.register_forward_pre_hook(self.score)
            scorer.weights_proj.register_forward_hook(self.weigh)

    def score(self, _layer: Any, args: Any) -> Any:
        q, keys = Fp8(args[0][0]), Fp8(args[1][0])
        self.noted[self.owner].index_q, self.noted[self.owner].index_k = q, keys
        return q.rounded[None], keys.rounded[None], *args[2:]

    def weigh(self, _layer: Any, _args: Any, out: Any) -> None:
        self.noted[self.owner].index_weights = out[0] * (INDEX_HEADS * INDEX_DIM) ** -0.5

    def packed(self, kv: Any) -> Any:
        """Keys (keys, 512), tokens then states, as the two caches keep them."""
        import torch
        from vllm.sm12x import layouts

        tokens, parts = STEP[self.owner].context, []
        for cache, table, page, some in (
            (self.near, self.near_table, PAGE, kv[:tokens]),
            (self.far, self.far_table, self.page, kv[tokens:]),
        ):
            slots = slots_of(table, self.owner, torch.arange(len(some)), page)
            layouts.pack(cache, slots, some)
            parts.append(layouts.unpack(cache, slots))
        return torch.cat(parts)

    def run(self, attend: Callable[..., Any]) -> list[Any]:
        import torch

        outputs = []
        with torch.no_grad(), attending(self.modeling, attend):
            for self.owner, hidden in enumerate(texts()):
                positions = torch.arange(hidden.shape[1])[None]
                age = positions[0][:, None] - positions[0][None]
                mask = torch.zeros(age.shape).masked_fill((age < 0) | (age >= WINDOW), -torch.inf)
                turned = {k: self.rotary(hidden, positions, k) for k in ("main", "compress")}
                out = self.layer(hidden, turned, positions, mask[None, None])
                outputs.append(out[0])
        return outputs

    def windows(self, rows: range) -> tuple[Any, Any]:
        """Slots (rows, 1, WINDOW) of what rows see of their windows, and how many."""
        import torch

        slots = torch.full((len(rows), 1, WINDOW), -1, dtype=torch.int32)
        counts = torch.zeros(len(rows), dtype=torch.int32)
        for place, row in enumerate(rows):
            seen = torch.arange(max(0, PLACES[row] - WINDOW + 1), PLACES[row] + 1)
            slots[place, 0, : len(seen)] = slots_of(self.near_table, OWNERS[row], seen, PAGE)
            counts[place] = len(seen)
        return slots, counts


def step_of(judge: V4) -> dict[str, Any]:
    """The step's metadata as vLLM's builders have it."""
    import torch

    rows = len(OWNERS)
    done = [(place + 1) // judge.ratio for place in PLACES]
    near = [judge.windows(range(DECODES)), judge.windows(range(DECODES, rows))]
    window = SimpleNamespace(
        num_decodes=DECODES, num_prefills=len(STEP) - DECODES, num_decode_tokens=DECODES,
        num_prefill_tokens=rows - DECODES, block_table=judge.near_table, block_size=PAGE,
        token_to_req_indices=torch.tensor(OWNERS, dtype=torch.int32),
        is_valid_token=torch.ones(rows, dtype=torch.bool), decode_swa_indices=near[0][0],
        decode_swa_lens=near[0][1], prefill_swa_indices=near[1][0], prefill_swa_lens=near[1][1],
        tile_sched_swaonly=None, tile_sched_c4a=None, tile_sched_c128a=None,
    )  # fmt: skip
    if judge.ratio == 1:
        return {"window": window}
    local = torch.arange(COLUMNS, dtype=torch.int32).repeat(rows, 1)
    local = local.masked_fill(local >= torch.tensor(done)[:, None], -1)
    found = torch.full((DECODES, 1, COLUMNS), -1, dtype=torch.int32)
    for row in range(DECODES):
        seen = torch.arange(min(done[row], COLUMNS))
        found[row, 0, : len(seen)] = slots_of(judge.far_table, OWNERS[row], seen, judge.page)
    layer = SimpleNamespace(
        block_size=256, block_table=judge.far_table, c128a_prefill_topk_indices=local[DECODES:],
        c128a_global_decode_topk_indices=found,
        c128a_decode_topk_lens=torch.tensor(done[:DECODES], dtype=torch.int32),
    )  # fmt: skip
    return {"window": window, "layer": layer}


def looked_up(local: Any, requests: Any, table: Any, block_size: int, valid: Any) -> Any:
    """What upstream's Triton kernel computes: each place's slot, and how many of a row count."""
    blocks = table[requests.long()[: len(local), None], local.clamp(min=0).long() // block_size]
    slots = (blocks * block_size + local % block_size).masked_fill(local < 0, -1).int()
    return slots, ((local >= 0).sum(dim=1) * valid).int()


@pytest.mark.parametrize("kind", V4_LAYERS, ids=["SWA", "C4A", "C128A"])
def test_a_layer_of_v4_is_the_librarys(
    base: Version, ops: Any, functions: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import torch
    import vllm.forward_context
    from vllm.sm12x.mla import deepseek_v4

    if base < Version("0.24"):
        pytest.skip("this release's class has no such metadata")
    judge = V4(modeling_of("deepseek_v4"), kind)
    attended: list[Any] = []

    def noting(original: Any, layer: Any, q: Any, k: Any, _v: Any, *mask: Any, **named: Any) -> Any:
        q, kv = q.bfloat16().float(), judge.packed(k[0, 0])[None, None]
        judge.noted[judge.owner].query = q[0].transpose(0, 1)
        out = original(layer, q, kv, kv, *mask, **named)
        attended.append(out[0])
        return out

    expected = rows_of(judge.run(noting))
    picks = torch.full((len(OWNERS), COLUMNS), -1, dtype=torch.int32)
    if judge.ratio == 4:
        done = [(place + 1) // 4 for place in PLACES]
        picks = picked(ops, judge.far_table, judge.page, judge.noted, done, V4_TOPK, COLUMNS)
    module = hand(v4_module(base), functions, monkeypatch)
    monkeypatch.setattr(module, "compute_global_topk_indices_and_lens", looked_up)
    monkeypatch.setattr(deepseek_v4, "PASS_ROWS", 6)
    context = SimpleNamespace(attn_metadata=step_of(judge))
    monkeypatch.setattr(module, "get_forward_context", lambda: context)
    monkeypatch.setattr(vllm.forward_context, "get_forward_context", lambda: context)
    made: Any = object.__new__(deepseek_v4.portable(module.DeepseekV4FlashMLAAttention))
    torch.nn.Module.__init__(made)
    vars(made).update(
        compress_ratio=judge.ratio, scale=512**-0.5, window_size=WINDOW, kv_cache=judge.far,
        attn_sink=judge.layer.sinks.detach(), prefix="layer", topk_indices_buffer=picks,
        swa_cache_layer=SimpleNamespace(kv_cache=judge.near, prefix="window"),
    )  # fmt: skip
    queries = torch.cat([n.query[-one.new :] for n, one in zip(judge.noted, STEP, strict=True)])
    q = queries.bfloat16()
    out = torch.full_like(q, torch.nan)
    made.forward_mqa(q, None, torch.tensor(PLACES), out)

    def answering(_original: Any, *_args: Any, **_named: Any) -> Any:
        return put_back(out.float(), judge.owner, attended[judge.owner]), None

    same(rows_of(judge.run(answering)), expected)
