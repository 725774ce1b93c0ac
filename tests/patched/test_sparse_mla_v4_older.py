# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V4's attention of v0.20 to v0.23: the overlay's classes on SM12x alone."""

import ast
import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import devices
import pytest
from devices import OTHERS, SM12X, SM120, Device
from packaging.version import Version
from test_sparse_mla_numbers import HEADS, SCALE, check, filled, noise, prompts, slots_of

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

KNOB = "VLLM_TRITON_MLA_SPARSE"
MODULES = {
    "0.20": "vllm.model_executor.layers.deepseek_v4_attention",
    "0.22": "vllm.models.deepseek_v4.nvidia.flashmla",
    "0.23": "vllm.models.deepseek_v4.nvidia.flashmla",
}
BOUND = {
    "0.20": ["DeepseekV4MLAAttention", "DeepseekV4MultiHeadLatentAttentionWrapper"],
    "0.22": ["DeepseekV4FlashMLASparseImpl"],
}


@pytest.fixture
def kind(base: Version, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the forms that the code has in these releases."""
    if base >= Version("0.24"):
        pytest.skip("from v0.24 on the model asks for a class: test_sparse_mla_v4.py")
    monkeypatch.delenv(KNOB, raising=False)
    if base < Version("0.22"):
        return "0.20"
    return "0.22" if base < Version("0.23") else "0.23"


@pytest.fixture
def module(kind: str) -> ModuleType:
    return importlib.import_module(MODULES[kind])


def come_up(module: ModuleType, device: Device, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the end of a module once more, on another device; return its names."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    tree.body = tree.body[-2:]
    assert isinstance(tree.body[-1], ast.If)
    names = dict(vars(module))
    with monkeypatch.context() as patch:
        devices.use(device, patch)
        exec(compile(tree, module.__file__, "exec"), names)
    return names


@pytest.mark.parametrize("device", SM12X, ids=str)
def test_the_classes_are_ours_on_sm12x(
    kind: str, module: ModuleType, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "0.23":
        chosen = pick(device, monkeypatch)
        assert issubclass(chosen, module.DeepseekV4FlashMLAAttention)
        assert chosen.get_padded_num_q_heads(20) == 20
        return
    names = come_up(module, device, monkeypatch)
    for name in BOUND[kind]:
        assert names[name] is not getattr(module, name)
        assert issubclass(names[name], getattr(module, name))
    if kind == "0.20":
        assert names["PREFILL_CHUNK_SIZE"] == 0


def pick(device: Device, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that v0.23's model takes."""
    model = importlib.import_module("vllm.models.deepseek_v4.nvidia.model")
    with monkeypatch.context() as patch:
        platform = devices.use(device, patch)
        if hasattr(model, "current_platform"):
            patch.setattr(model, "current_platform", platform)
        return model._select_dsv4_attn_cls(devices.model(v4=True))


@pytest.mark.parametrize("device", OTHERS, ids=str)
def test_elsewhere_they_are_upstreams_and_nothing_of_the_overlay_is_imported(
    kind: str, module: ModuleType, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.forget_overlay(monkeypatch)
    if kind == "0.23":
        assert pick(device, monkeypatch) is module.DeepseekV4FlashMLAAttention
    else:
        names = come_up(module, device, monkeypatch)
        assert all(names[name] is getattr(module, name) for name in BOUND[kind])
    assert devices.entered() == []


def test_the_knob_leaves_upstreams(
    kind: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KNOB, "0")
    if kind == "0.23":
        assert pick(SM120, monkeypatch) is module.DeepseekV4FlashMLAAttention
    else:
        names = come_up(module, SM120, monkeypatch)
        assert all(names[name] is getattr(module, name) for name in BOUND[kind])


def made_layer(kind: str, module: ModuleType, patch: pytest.MonkeyPatch, **has: Any) -> Any:
    """A layer of ours that was never initialised, or the class of v0.22's and such a layer."""
    import torch

    names = pick(SM120, patch) if kind == "0.23" else come_up(module, SM120, patch)[BOUND[kind][0]]
    if kind == "0.22":
        return names, SimpleNamespace(**has)
    made: Any = object.__new__(names)
    torch.nn.Module.__init__(made)
    vars(made).update(has)
    return made, made


@pytest.mark.parametrize("ratio", [4, 128])
def test_a_prompt_is_read_where_it_lies(
    kind: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch, ratio: int
) -> None:
    """Rows of two requests, over windows of 64 and compressed states, with a decode before them."""
    import torch
    from vllm.sm12x.layouts import V4
    from vllm.sm12x.layouts.scope import Scope
    from vllm.sm12x.reference import decode

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "overlay"))
    importlib.import_module("interpreted").kernels("decode", "prefill")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(module, "compute_global_topk_indices_and_lens", slots_of)
    page = 256 // ratio
    window, states = filled(V4, 4, 64), filled(V4, 160 // page + 4, page)
    q, out = noise(3, HEADS, 512), torch.zeros(3, HEADS, 512).bfloat16()
    sink = noise(64).float()  # as long as FlashMLA's heads
    positions = torch.tensor([99, 100, 3])
    requests = torch.tensor([0, 1, 1, 2], dtype=torch.int32)
    table = torch.tensor([[0, 0], [2, 1], [0, 3]], dtype=torch.int32)
    picks, far, pages = prompts(ratio, 4, len(states) - max(1, 8 // page))
    swa = SimpleNamespace(
        num_decodes=1, num_prefills=2, num_decode_tokens=1, num_prefill_tokens=3, block_size=64,
        block_table=table, token_to_req_indices=requests,
        is_valid_token=torch.ones(4, dtype=torch.bool), prefill_swa_indices=None,
    )  # fmt: skip
    layer = {
        "compress_ratio": ratio, "scale": SCALE, "window_size": 64, "topk_indices_buffer": picks,
        "attn_sink": sink if kind == "0.22" else sink[:HEADS], "num_heads": HEADS,
    }  # fmt: skip
    owner, made = made_layer(kind, module, monkeypatch, **layer)
    if kind == "0.22":
        from vllm.sm12x.mla.deepseek_v4_older import Unpadded

        layer_argument = {"layer": Unpadded(made)}
    else:
        layer_argument = {}
    owner._forward_prefill(
        **layer_argument, q=q, positions=positions, compressed_k_cache=states, swa_k_cache=window,
        output=out, swa_metadata=swa,
        attn_metadata=SimpleNamespace(
            block_size=256, block_table=pages, c128a_prefill_topk_indices=far
        ),
    )  # fmt: skip
    near = torch.full((3, 64), -1, dtype=torch.int32)
    for row, last in enumerate(positions.tolist()):
        seen = torch.arange(max(last - 63, 0), last + 1)
        near[row, : len(seen)] = (table[requests[row + 1], seen // 64] * 64 + seen % 64).int()
    local = far if ratio == 128 else picks[1:]
    slots, counts = slots_of(local, requests[1:], pages, page, torch.ones(3))
    scopes = [Scope(cache=window, indices=near), Scope(cache=states, indices=slots, lengths=counts)]
    expected = decode.sparse_decode(q, scopes, scale=SCALE, sink=sink[:HEADS], dtype=torch.float64)
    check(out, expected[0])
    # The next layer of the step finds the windows there.
    assert swa.prefill_swa_indices.shape == (3, 1, 64)
