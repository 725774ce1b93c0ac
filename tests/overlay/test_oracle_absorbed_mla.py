# SPDX-License-Identifier: Apache-2.0
"""Attention layers of the transformers library as judges of sparse MLA over latent keys.

DeepSeek V3.2, GLM-5.2 (DSA) and GLM-5.3 (DSA without RoPE). The library expands each latent into
keys and values of every head; FlashMLA's form attends to the latents themselves, with the expansion
folded into the query and taken out of the output. Both must give the same, and so must latents that
went through the packed cache.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V32, ScaleRule
from vllm.sm12x.layouts.scope import Scope
from vllm.sm12x.reference.decode import sparse_decode
from vllm.sm12x.reference.prefill import sparse_prefill

TOKENS, TOPK, POOL, HEADS, NOPE = 24, 8, 4, 3, 16

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "q_lora_rank": 32,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": NOPE,
    "v_head_dim": 20,
    "index_topk": TOPK,
    "index_n_heads": 2,
    "max_position_embeddings": 128,
}
# Model: its classes' prefix, its attention class and the width of its RoPE part.
MODELS = {
    "deepseek_v32": ("DeepseekV32", "DeepseekV32Attention", 64),
    "glm_moe_dsa": ("GlmMoeDsa", "GlmMoeDsaAttention", 64),
    "glm5_next": ("Glm5NextText", "Glm5NextTextAttention", 0),
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an attention layer, in float64.

    `q` (rows, heads, nope and rope), `latents` (keys, 512 and rope), `indices` (rows, k) with -1,
    `out` (rows, heads, v) before the output projection.
    """

    layer: Any
    modeling: ModuleType
    q: torch.Tensor
    latents: torch.Tensor
    indices: torch.Tensor
    mask: torch.Tensor
    out: torch.Tensor

    @property
    def expansion(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What makes a head's keys and values of a latent: (heads, nope, 512), (heads, v, 512)."""
        weight = self.layer.kv_b_proj.weight.detach().view(HEADS, -1, 512)
        return weight[:, :NOPE], weight[:, NOPE:]

    @property
    def absorbed(self) -> torch.Tensor:
        """The query over latents, (rows, heads, 512 and rope)."""
        query = torch.einsum("rhn,hnl->rhl", self.q[..., :NOPE], self.expansion[0])
        return torch.cat([query, self.q[..., NOPE:]], dim=-1)

    def values(self, out: torch.Tensor) -> torch.Tensor:
        """The output (rows, heads, v) of an output over latents (rows, heads, 512)."""
        return torch.einsum("rhl,hvl->rhv", out, self.expansion[1])

    def judge(self, latents: torch.Tensor) -> torch.Tensor:
        """The library's output (rows, heads, v) on other latents."""
        parts = latents[None, None].split([512, latents.shape[1] - 512], dim=-1)
        with torch.no_grad():
            key, value = type(self.layer).expand_kv(self.layer, *parts)
            query = self.q.transpose(0, 1)[None]
            scaling = self.layer.scaling
            out, _ = self.modeling.eager_attention_forward(
                self.layer, query, key, value, self.mask, scaling=scaling
            )
        attended: torch.Tensor = out[0]
        return attended


@pytest.fixture(params=MODELS)
def call(request: pytest.FixtureRequest, modeling_of: Callable[[str], ModuleType]) -> Call:
    return call_of(modeling_of(request.param), request.param)


@functools.cache
def call_of(modeling: ModuleType, model: str) -> Call:
    prefix, attention, rope = MODELS[model]
    pool = {} if rope else {"index_kpool": POOL}
    config = getattr(modeling, f"{prefix}Config")(**SMALL, **pool, qk_rope_head_dim=rope)
    config._attn_implementation = "eager"
    noted: dict[str, torch.Tensor] = {}
    original = modeling.eager_attention_forward

    def noting(layer: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        out, weights = original(layer, q, k, v, mask, **kwargs)
        noted.update(q=q[0].transpose(0, 1), mask=mask, out=out[0])
        return out, weights

    with torch.random.fork_rng(), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(modeling, "eager_attention_forward", noting)
        layer = getattr(modeling, attention)(config, 0).double().eval()
        layer.q_b_proj.weight.mul_(20)  # logits far from equal
        expand = layer.expand_kv

        def expanding(latent: torch.Tensor, rope: torch.Tensor) -> Any:
            noted["latents"] = torch.cat([latent, rope], dim=-1)[0, 0]
            return expand(latent, rope)

        layer.expand_kv = expanding
        layer.indexer.register_forward_hook(lambda *call: noted.update(indices=call[2][0]))
        layer(**inputs(modeling, prefix, config, rope))
    future = noted["indices"] > torch.arange(TOKENS)[:, None]
    noted["indices"] = noted["indices"].masked_fill(future, -1)
    return Call(layer=layer, modeling=modeling, **noted)


def inputs(modeling: ModuleType, prefix: str, config: Any, rope: int) -> dict[str, Any]:
    """A prompt for a layer alone, with the causal mask in the form it takes."""
    hidden = torch.randn(1, TOKENS, config.hidden_size, dtype=torch.float64)
    if not rope:
        return {"hidden_states": hidden, "attention_mask": torch.ones(1, TOKENS, dtype=torch.bool)}
    positions = torch.arange(TOKENS)[None]
    future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    mask = torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.float64).masked_fill(future, -1e300)
    rotary = getattr(modeling, f"{prefix}RotaryEmbedding")(config)
    return {
        "hidden_states": hidden,
        "position_embeddings": rotary(hidden, positions),
        "attention_mask": mask,
        "position_ids": positions,
    }


def test_prefill_over_latents_gives_the_layers_output(call: Call) -> None:
    seen = torch.arange(1, TOKENS + 1)
    # GLM-5.3 picks pools of tokens, and always the last one that isn't complete.
    tail = seen % POOL if call.latents.shape[1] == 512 else 0
    assert torch.equal((call.indices >= 0).sum(1), (seen - tail).clamp(max=TOPK) + tail)
    out, _, _ = sparse_prefill(call.absorbed, call.latents, call.indices, scale=call.layer.scaling)
    torch.testing.assert_close(call.values(out), call.out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ScaleRule)
def test_a_paged_cache_gives_the_layers_output_on_the_same_rounded_latents(
    call: Call, rule: ScaleRule
) -> None:
    pages = torch.tensor([2, 0, 3])
    tokens = torch.arange(TOKENS)
    slots = pages[tokens // 10] * 10 + tokens % 10
    cache = layouts.empty_cache(V32, 4, 10, fill=255)
    width = call.latents.shape[1]
    padded = torch.nn.functional.pad(call.latents, (0, 576 - width), value=torch.nan)
    layouts.pack(cache, slots, padded, rule=rule)
    indices = torch.where(call.indices < 0, -1, slots[call.indices.long()])
    scope = Scope(cache=cache, indices=indices)
    out, _ = sparse_decode(call.absorbed, [scope], scale=call.layer.scaling)
    ours = call.values(out)
    rounded = layouts.unpack(cache, slots, dtype=torch.float64)[:, :width]
    torch.testing.assert_close(ours, call.judge(rounded), rtol=1e-5, atol=1e-6)
    error = (ours - call.out).norm(dim=-1) / call.out.norm(dim=-1)
    assert 1e-3 < error.mean() < 0.06
