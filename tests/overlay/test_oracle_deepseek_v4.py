# SPDX-License-Identifier: Apache-2.0
"""A tiny DeepSeek V4 of the transformers library as judge of masks, layout and attention.

The model runs as its authors wrote it; queries, keys, mask and output of each attention call are
noted. Which keys a query may see must follow from our rules, and our references must then give the
same output: from the plain keys, and from keys packed into two paged caches.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4
from vllm.sm12x.layouts.scope import Scope
from vllm.sm12x.reference.decode import sparse_decode
from vllm.sm12x.reference.prefill import sparse_prefill

TOKENS, WINDOW, TOPK = 40, 8, 5
RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}
LAYERS = ["sliding_attention", *RATES]
EACH_LAYER = pytest.mark.parametrize("layer", range(3), ids=["SWA", "C4A", "C128A"])


@dataclass(frozen=True, kw_only=True)
class Call:
    """One attention call: `q` (rows, heads, 512), `kv` (keys, 512), `out` as `q`.

    `visible` (rows, keys) is the model's mask; the first `near` keys are tokens, the others
    compressed. `weights` (rows, heads, keys) are the probabilities without the sink's share.
    """

    module: Any
    q: torch.Tensor
    kv: torch.Tensor
    mask: torch.Tensor
    out: torch.Tensor
    weights: torch.Tensor
    near: int

    @property
    def visible(self) -> torch.Tensor:
        return self.mask[0, 0] == 0

    @property
    def sink(self) -> torch.Tensor:
        sink: torch.Tensor = self.module.sinks.detach()
        return sink


Calls = tuple[list[Call], list[Call]]


@pytest.fixture
def modeling(modeling_of: Callable[[str], ModuleType]) -> ModuleType:
    return modeling_of("deepseek_v4")


@pytest.fixture
def calls(modeling: ModuleType) -> Calls:
    """The calls of the three layers for a prompt, and for one more token after it."""
    return calls_of(modeling)


@functools.cache
def calls_of(modeling: ModuleType) -> Calls:
    config = modeling.DeepseekV4Config(
        vocab_size=50,
        hidden_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        q_lora_rank=32,
        n_routed_experts=2,
        num_experts_per_tok=1,
        layer_types=LAYERS,
        mlp_layer_types=["moe"] * 3,
        compress_rates=RATES,
        sliding_window=WINDOW,
        o_groups=2,
        o_lora_rank=16,
        index_n_heads=2,
        index_topk=TOPK,
        hc_mult=2,
        attn_implementation="eager",
    )
    noted: list[Call] = []
    original = modeling.eager_attention_forward

    def noting(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        assert k is v
        assert kwargs["scaling"] == 512**-0.5
        out, weights = original(module, q, k, v, mask, **kwargs)
        rate = RATES.get(module.layer_type)
        compressed = seen // rate if rate else 0
        noted.append(
            Call(
                module=module,
                q=q[0].transpose(0, 1),
                kv=k[0, 0],
                mask=mask,
                out=out[0],
                weights=weights[0].transpose(0, 1),
                near=k.shape[2] - compressed,
            )
        )
        return out, weights

    with torch.random.fork_rng(), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(modeling, "eager_attention_forward", noting)
        model = modeling.DeepseekV4ForCausalLM(config).eval()
        for layer in model.model.layers:
            layer.self_attn.sinks.normal_()
        ids = torch.randint(0, config.vocab_size, (1, TOKENS + 1))
        seen = TOKENS
        cache = model(ids[:, :TOKENS], use_cache=True).past_key_values
        seen = TOKENS + 1
        model(ids[:, TOKENS:], past_key_values=cache)
    return noted[:3], noted[3:]


def picks(visible: torch.Tensor) -> torch.Tensor:
    """The indices of each row's visible keys, padded with -1."""
    width = int(visible.sum(1).max()) if visible.numel() else 0
    rows = [row.nonzero()[:, 0] for row in visible]
    padded = [torch.nn.functional.pad(row, (0, width - len(row)), value=-1) for row in rows]
    return torch.stack(padded).int()


def paged(kv: torch.Tensor, page_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`kv` in a cache whose pages are out of order and not full, and the slot of each key."""
    pages = -(-len(kv) // page_size) + 2
    table = torch.randperm(pages, generator=torch.Generator().manual_seed(seed))
    keys = torch.arange(len(kv))
    slots = table[keys // page_size] * page_size + keys % page_size
    cache = layouts.empty_cache(V4, pages, page_size, fill=255)
    layouts.pack(cache, slots, kv)
    return cache, slots


def scopes_of(call: Call) -> list[Scope]:
    """The tokens and the compressed keys of a call, each in a cache of their own."""
    parts = [(call.kv[: call.near], call.visible[:, : call.near], 64)]
    if call.near < len(call.kv):
        parts.append((call.kv[call.near :], call.visible[:, call.near :], 2))
    scopes = []
    for seed, (kv, visible, page_size) in enumerate(parts):
        cache, slots = paged(kv, page_size, seed)
        local = picks(visible)
        indices = torch.where(local < 0, -1, slots[local.long()])
        scopes.append(Scope(cache=cache, indices=indices, lengths=visible.sum(1)))
    return scopes


def lse_of(call: Call) -> torch.Tensor:
    """What the sink's share of the probability says the LSE was."""
    share = call.weights.double().sum(-1)
    return call.sink.double() + torch.log(share) - torch.log1p(-share)


@EACH_LAYER
def test_who_sees_what_follows_from_the_rules(calls: Calls, layer: int) -> None:
    call = calls[0][layer]
    p = torch.arange(TOKENS)[:, None]
    key = torch.arange(call.near)
    assert torch.equal(call.visible[:, : call.near], (key <= p) & (key >= p - WINDOW + 1))
    if layer == 0:
        assert call.near == len(call.kv)
        return
    rate = RATES[LAYERS[layer]]
    done = (p + 1) // rate
    far = call.visible[:, call.near :]
    complete = torch.arange(TOKENS // rate) < done
    if layer == 1:  # the indexer's choice
        assert torch.equal(far.sum(1), done[:, 0].clamp(max=TOPK))
        assert not (far & ~complete).any()
    else:
        assert torch.equal(far, complete)


@EACH_LAYER
def test_prefill_over_plain_keys_gives_the_models_output_and_lse(calls: Calls, layer: int) -> None:
    call = calls[0][layer]
    out, max_logits, lse = sparse_prefill(
        call.q, call.kv, picks(call.visible), scale=512**-0.5, sink=call.sink
    )
    torch.testing.assert_close(out.float(), call.out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse, lse_of(call), rtol=0, atol=1e-4)
    assert bool((max_logits <= lse).all())


@EACH_LAYER
@pytest.mark.parametrize("step", [0, 1], ids=["prompt", "next token"])
def test_paged_caches_give_the_output_of_the_model_on_the_same_rounded_keys(
    modeling: ModuleType, calls: Calls, layer: int, step: int
) -> None:
    call = calls[step][layer]
    scopes = scopes_of(call)
    rounded = torch.cat(
        [
            layouts.unpack(*paged(kv, page_size, seed))
            for seed, (kv, page_size) in enumerate(
                [(call.kv[: call.near], 64), (call.kv[call.near :], 2)]
            )
        ]
    )
    keys = rounded[None, None]
    expected, _ = modeling.eager_attention_forward(
        call.module, call.q.transpose(0, 1)[None], keys, keys, call.mask, scaling=512**-0.5
    )
    out, _ = sparse_decode(call.q, scopes, scale=512**-0.5, sink=call.sink)
    torch.testing.assert_close(out.float(), expected[0], rtol=1e-4, atol=1e-5)


@EACH_LAYER
@pytest.mark.parametrize("step", [0, 1], ids=["prompt", "next token"])
def test_rounding_keys_to_fp8_moves_the_output_by_little(
    calls: Calls, layer: int, step: int
) -> None:
    call = calls[step][layer]
    out, lse = sparse_decode(call.q, scopes_of(call), scale=512**-0.5, sink=call.sink)
    error = (out - call.out).norm(dim=-1) / call.out.norm(dim=-1)
    assert 1e-3 < error.mean() < 0.04
    assert error.max() < 0.1
    torch.testing.assert_close(lse, lse_of(call), rtol=0, atol=0.1)


def test_the_token_after_the_prompt_sees_a_full_window_and_every_complete_state(
    calls: Calls,
) -> None:
    for layer, call in enumerate(calls[1]):
        near, far = call.visible[0, : call.near], call.visible[0, call.near :]
        assert near.sum() == WINDOW
        rate = RATES.get(LAYERS[layer])
        states = 0 if rate is None else (TOKENS + 1) // rate
        assert far.sum() == (min(states, TOPK) if layer == 1 else states)


@EACH_LAYER
def test_keys_survive_the_layout_within_half_a_bit_of_e4m3(calls: Calls, layer: int) -> None:
    kv = calls[0][layer].kv
    read_back = layouts.unpack(*paged(kv, 64, 0))
    assert torch.equal(read_back[:, 448:], kv[:, 448:].bfloat16().float())
    nope = kv[:, :448]
    scale = nope.unflatten(1, (7, 64)).abs().amax(2).repeat_interleave(64, dim=1) / 448
    assert bool(((read_back[:, :448] - nope).abs() <= nope.abs() / 16 + scale * 2**-9).all())
