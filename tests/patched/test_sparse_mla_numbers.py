# SPDX-License-Identifier: Apache-2.0
"""Upstream's own calls of FlashMLA's functions, answered by the kernels on Triton's interpreter."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import devices
import pytest
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

OPS = Path("vllm", "v1", "attention", "ops", "flashmla.py")
HEADS, ROWS, SCALE = 8, 2, 0.06
WORST = 5e-3


@pytest.fixture
def functions(base: Version, monkeypatch: pytest.MonkeyPatch) -> Any:
    """FlashMLA's module as it comes up on SM12x, with kernels that run on the CPU."""
    import vllm

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "overlay"))
    importlib.import_module("interpreted").kernels("decode", "prefill")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with monkeypatch.context() as patch:
        devices.use(devices.SM120, patch)
        return devices.load(Path(vllm.__file__).parents[1] / OPS, monkeypatch)


def hand(module: Any, functions: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a module of upstream's have imported its functions on SM12x."""
    for name in ("flash_mla_with_kvcache", "flash_mla_sparse_fwd"):
        monkeypatch.setattr(module, name, getattr(functions, name))
    return module


def noise(*shape: int) -> Any:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).bfloat16()


def filled(layout: Any, pages: int, page_size: int) -> Any:
    import torch
    from vllm.sm12x import layouts

    cache = layouts.empty_cache(layout, pages, page_size, fill=255)
    slots = torch.arange(pages * page_size - 8)  # the rest isn't a number
    layouts.pack(cache, slots, noise(len(slots), layout.head_dim))
    return cache


def check(out: Any, expected: Any) -> None:
    difference = (out.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(difference.max()) < WORST


@pytest.fixture
def impl(functions: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The implementation for V3.2 and GLM, as far as its calls of the functions go."""
    from vllm.sm12x.mla import backend
    from vllm.v1.attention.backends.mla import flashmla_sparse

    hand(flashmla_sparse, functions, monkeypatch)
    impl = backend.SparseImpl.__new__(backend.SparseImpl)
    impl.num_heads, impl.softmax_scale, impl.prefill_padding = HEADS, SCALE, 64
    impl._in_place = False  # outputs are new tensors
    impl.fp8_decode_padded_heads = impl._compute_fp8_decode_padded_heads(HEADS)
    return impl


def test_a_v32_layer_over_its_packed_cache(impl: Any, functions: Any) -> None:
    import torch
    from vllm.sm12x.layouts import V32
    from vllm.sm12x.layouts.scope import Scope
    from vllm.sm12x.reference import decode

    cache, q = filled(V32, 2, 64), noise(ROWS, HEADS, V32.head_dim)
    picks = torch.randint(0, 120, (ROWS, 64), dtype=torch.int32)
    picks[:, -7:] = -1
    plan = SimpleNamespace(
        dummy_block_table=None,
        cache_lens=None,
        scheduler_metadata=functions.get_mla_metadata()[0],
    )
    out, lse = impl._fp8_flash_mla_kernel(q.unsqueeze(0), cache, picks.unsqueeze(0), plan)
    assert out.shape == (1, ROWS, HEADS, 512)
    scope = Scope(cache=cache, indices=picks)
    expected, expected_lse = decode.sparse_decode(
        q, [scope], scale=SCALE, sink=None, dtype=torch.float64
    )
    check(out[0], expected)
    assert torch.allclose(lse[0].T.double(), expected_lse.double(), atol=1e-5)


def test_a_v32_layer_over_bfloat16(impl: Any) -> None:
    import torch
    from vllm.sm12x.reference import prefill

    kv, q = noise(2, 64, 576), noise(ROWS, HEADS, 576)
    picks = torch.randint(0, 128, (ROWS, 64), dtype=torch.int32)
    out = impl._bf16_flash_mla_kernel(q, kv, picks)
    out = out[0] if isinstance(out, tuple) else out
    expected = prefill.sparse_prefill(
        q, kv.flatten(0, 1), picks, scale=SCALE, sink=None, dtype=torch.float64
    )[0]
    check(out, expected)


def v4_module(base: Version) -> Any:
    if base < Version("0.22"):
        return importlib.import_module("vllm.model_executor.layers.deepseek_v4_attention")
    return importlib.import_module("vllm.models.deepseek_v4.nvidia.flashmla")


def test_a_v4_layer_decodes_its_window_and_its_compressed_states(
    base: Version, functions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from vllm.sm12x.layouts import V4
    from vllm.sm12x.layouts.scope import Scope
    from vllm.sm12x.reference import decode

    module = hand(v4_module(base), functions, monkeypatch)
    window, states = filled(V4, 2, 64), filled(V4, 40, 2)
    q, out = noise(ROWS, HEADS, 512), torch.full((ROWS, HEADS, 512), torch.nan).bfloat16()
    sink = noise(HEADS).float()
    near = torch.randint(0, 120, (ROWS, 1, 64), dtype=torch.int32)
    far = torch.randint(0, 72, (ROWS, 1, 128), dtype=torch.int32)
    far[1] = 2**31 - 1  # stale: its length is 0
    lengths = torch.tensor([64, 40], dtype=torch.int32), torch.tensor([70, 0], dtype=torch.int32)
    # From v0.24 on the builder makes no plans on SM12x.
    plan = None if base >= Version("0.24") else functions.get_mla_metadata()[0]
    layer = {
        "compress_ratio": 128,
        "scale": SCALE,
        "attn_sink": sink,
        "swa_cache_layer": SimpleNamespace(kv_cache=window),
    }
    arguments = {
        "q": q,
        "kv_cache": states,
        "swa_only": False,
        "output": out,
        "attn_metadata": SimpleNamespace(
            block_size=256, c128a_global_decode_topk_indices=far, c128a_decode_topk_lens=lengths[1]
        ),
        "swa_metadata": SimpleNamespace(
            num_decodes=ROWS,
            num_decode_tokens=ROWS,
            is_valid_token=torch.ones(ROWS, dtype=torch.bool),
            decode_swa_indices=near,
            decode_swa_lens=lengths[0],
            tile_sched_swaonly=plan,
            tile_sched_c4a=plan,
            tile_sched_c128a=plan,
        ),
    }
    decode_layer(base, module, layer, arguments)
    scopes = [
        Scope(cache=window, indices=near[:, 0], lengths=lengths[0]),
        Scope(cache=states, indices=far[:, 0], lengths=lengths[1]),
    ]
    expected = decode.sparse_decode(q, scopes, scale=SCALE, sink=sink, dtype=torch.float64)[0]
    check(out, expected)


def slots_of(local: Any, requests: Any, table: Any, block_size: int, valid: Any) -> Any:
    """What upstream's Triton kernel computes: each place's slot, and how many of a row count."""
    pages = table[requests.long()[:, None], local.clamp(min=0) // block_size]
    slots = (pages * block_size + local % block_size).masked_fill(local < 0, -1)
    return slots, ((local >= 0).sum(dim=1) * valid).int()


@pytest.mark.parametrize("ratio", [1, 4, 128])
def test_a_v4_layer_attends_from_prompts_without_gathering_their_keys(
    base: Version, functions: Any, monkeypatch: pytest.MonkeyPatch, ratio: int
) -> None:
    """Two prompts behind a decode, each with pages of its own."""
    import torch
    import vllm.forward_context
    from vllm.sm12x.layouts import V4
    from vllm.sm12x.layouts.scope import Scope
    from vllm.sm12x.mla import deepseek_v4
    from vllm.sm12x.reference import decode

    if base < Version("0.24"):
        pytest.skip("this release's class has no such metadata")
    module = v4_module(base)
    monkeypatch.setattr(module, "compute_global_topk_indices_and_lens", slots_of)
    monkeypatch.setattr(deepseek_v4, "PASS_ROWS", 2)
    page = 256 // ratio
    window, states = filled(V4, 2, 64), filled(V4, 160 // page + 4, page)
    decoded, rows = 1, 3
    q = noise(decoded + rows, HEADS, 512)
    out = torch.zeros_like(q)
    near = torch.randint(0, 120, (rows, 1, 64), dtype=torch.int32)
    lengths = torch.tensor([64, 9, 1], dtype=torch.int32)
    # Picks of every token; the decode's are others than the prompts'.
    picks, far, table = prompts(ratio, decoded + rows, len(states) - max(1, 8 // page))
    requests = torch.tensor([0, 1, 2, 2], dtype=torch.int32)
    sink = noise(HEADS).float()
    metadata = {
        "layer": SimpleNamespace(block_size=256, block_table=table, c128a_prefill_topk_indices=far),
        "window": SimpleNamespace(
            num_decodes=0,
            num_prefills=2,
            num_decode_tokens=decoded,
            num_prefill_tokens=rows,
            prefill_swa_indices=near,
            prefill_swa_lens=lengths,
            token_to_req_indices=requests,
            is_valid_token=torch.ones(decoded + rows, dtype=torch.bool),
        ),
    }
    if ratio == 1:
        del metadata["layer"]
    context = SimpleNamespace(attn_metadata=metadata)
    monkeypatch.setattr(module, "get_forward_context", lambda: context)
    monkeypatch.setattr(vllm.forward_context, "get_forward_context", lambda: context)
    attention = deepseek_v4.portable(module.DeepseekV4FlashMLAAttention)
    made: Any = object.__new__(attention)
    torch.nn.Module.__init__(made)
    swa_layer = SimpleNamespace(kv_cache=window, prefix="window")
    vars(made).update(
        compress_ratio=ratio, scale=SCALE, window_size=64, attn_sink=sink,
        swa_cache_layer=swa_layer, kv_cache=states, prefix="layer", topk_indices_buffer=picks,
    )  # fmt: skip
    positions = torch.arange(decoded + rows)
    made.forward_mqa(q, None, positions, out)
    assert not out[:decoded].any()
    scopes = [Scope(cache=window, indices=near[:, 0], lengths=lengths)]
    if ratio > 1:
        local = far if ratio == 128 else picks[decoded:]
        slots, counts = slots_of(local, requests[decoded:], table, page, torch.ones(rows))
        scopes.append(Scope(cache=states, indices=slots, lengths=counts))
    expected = decode.sparse_decode(
        q[decoded:], scopes, scale=SCALE, sink=sink, dtype=torch.float64
    )
    check(out[decoded:], expected[0])
    # A dry run reserves nothing: there is no workspace manager to ask here.
    context.attn_metadata = None
    made.forward_mqa(q, None, positions, out)
    assert not out.any()


def prompts(ratio: int, rows: int, pages: int) -> tuple[Any, Any, Any]:
    """A C4A layer's picks for `rows`, C128A's of all but the first, and tables of 3 requests."""
    import torch

    generator = torch.Generator().manual_seed(ratio)
    per_request = pages // 3
    table = torch.randperm(per_request * 3, generator=generator, dtype=torch.int32).view(3, -1)
    places = min(per_request * 256 // ratio, 64)
    picks = torch.stack([torch.randperm(places, generator=generator) for _ in range(rows)]).int()
    far = torch.arange(places, dtype=torch.int32).repeat(rows - 1, 1)
    for local in (picks[1:], far):
        local[1, 20:], local[2, 1:] = -1, -1
    return picks, far, table


def decode_layer(
    base: Version, module: Any, layer: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """Call the decode step of the class that a V4 layer has on SM12x."""
    import torch

    if base < Version("0.22"):
        module.DeepseekV4MLAAttention._forward_decode(SimpleNamespace(**layer), **arguments)
    elif base < Version("0.23"):
        kernel = module.DeepseekV4FlashMLASparseImpl
        kernel._forward_decode(layer=SimpleNamespace(**layer), **arguments)
    else:
        attention = module.DeepseekV4FlashMLAAttention
        if base >= Version("0.24"):
            from vllm.sm12x.mla.deepseek_v4 import portable

            attention = portable(attention)
        made = object.__new__(attention)
        torch.nn.Module.__init__(made)
        vars(made).update(layer)
        made._forward_decode(**arguments)
