# SPDX-License-Identifier: Apache-2.0
"""Whatever a model calls at any batch size has been compiled by the warm-up."""

import logging
import types
from collections.abc import Callable
from typing import Any

import interpreted
import pytest
import torch
from vllm.sm12x.layouts import V4, V32
from vllm.sm12x.support.compression import ratios_of
from vllm.sm12x.warmup import attention as warmup
from vllm.sm12x.warmup import gemm as warmup_gemm
from vllm.sm12x.warmup.attention import Layer, from_config, v4_shape, v32_shape, variants, warm_up

decode, prefill, tiles = interpreted.kernels("decode", "prefill", "tiles")

DEVICES = [
    tiles.Device(family=tiles.Family.SM121, sms=48, l2_bytes=24 << 20),
    tiles.Device(family=tiles.Family.SM120, sms=188, l2_bytes=128 << 20),
]
FLASH = v4_shape(
    heads=64, window=128, index_topk=512, ratios=[0, 4, 128, 4], block_size=256, max_model_len=2**17
)
SHAPES = {
    "V4-Flash": FLASH,
    "V3.2": v32_shape(heads=128, index_topk=2048, rope_dim=64),
    "GLM without RoPE": v32_shape(heads=8, index_topk=2048, rope_dim=0),
}


def kernels_of(layer: Layer, splits: int) -> set[Any]:
    """What is compiled for a decode: the kernel by pages, and the merge by its rounded splits."""
    if splits == 1:
        return {(layer.page_sizes, "whole")}
    return {(layer.page_sizes, "split"), ("merge", 1 << (splits - 1).bit_length())}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("device", DEVICES, ids=["GB10", "RTX PRO 6000"])
def test_no_number_of_rows_needs_a_kernel_that_is_not_warm(name: str, device: Any) -> None:
    shape = SHAPES[name]
    warm: set[Any] = set()
    for variant in variants(shape):
        if variant.layer:
            warm |= kernels_of(variant.layer, variant.splits)
    kernel = tiles.Kernel.DECODE_V4 if shape.layout is V4 else tiles.Kernel.DECODE_V32
    for layer in shape.layers:
        for rows in (*range(1, 70), 100, 117, 256, 4096):
            plan = tiles.plan(kernel, device, rows=rows, heads=shape.heads, widths=layer.widths)
            assert kernels_of(layer, plan.splits) <= warm, (layer, rows, plan.splits)


def test_a_model_has_a_layer_for_each_compression_ratio_and_pages_to_match() -> None:
    assert FLASH.layers == (
        Layer(widths=(128,), page_sizes=(64,)),
        Layer(widths=(128, 512), page_sizes=(64, 64)),
        Layer(widths=(128, 1024), page_sizes=(64, 2)),
    )
    assert (FLASH.width, FLASH.sink, FLASH.lengths) == (512, True, True)
    glm = SHAPES["GLM without RoPE"]
    assert (glm.layout, glm.width, glm.sink, glm.lengths) == (V32, 512, False, False)


def test_nothing_is_warmed_twice() -> None:
    for shape in SHAPES.values():
        found = variants(shape)
        assert len(set(found)) == len(found) <= 16
        assert {v.lengths for v in found if v.layer is None} == set(shape.prefill_lengths)


def test_tiles_are_as_wide_as_the_warm_up_takes_them_to_be() -> None:
    widths = {tile.block_entries for choices in tiles.TABLE.values() for tile in choices.values()}
    assert widths == {warmup.BLOCK_ENTRIES}


def test_a_row_of_one_tile_is_never_split() -> None:
    shape = v4_shape(heads=8, window=32, index_topk=64, ratios=[0], block_size=64, max_model_len=64)
    assert [v.splits for v in variants(shape) if v.layer] == [1]


def config(**hf: Any) -> Any:
    text = types.SimpleNamespace(num_attention_heads=64, **hf)
    return types.SimpleNamespace(
        model_config=types.SimpleNamespace(hf_text_config=text, max_model_len=4096),
        parallel_config=types.SimpleNamespace(tensor_parallel_size=2),
        cache_config=types.SimpleNamespace(block_size=256),
    )


def test_shapes_are_read_from_vllms_configuration() -> None:
    v4 = from_config(
        config(index_topk=512, qk_rope_head_dim=64, sliding_window=128, compress_ratios=[0, 4, 128])
    )
    assert v4 == v4_shape(
        heads=32, window=128, index_topk=512, ratios=[0, 4, 128], block_size=256, max_model_len=4096
    )
    v41 = from_config(
        config(
            index_topk=512, qk_rope_head_dim=64, sliding_window=128, compress_ratios=[0, 1, 2, 2],
            model_type="deepseek_v41",
        )
    )  # fmt: skip
    assert v41 is not None
    assert [layer.page_sizes for layer in v41.layers] == [(32,), (32, 256), (32, 128)]
    assert [layer.widths for layer in v41.layers] == [(128,), (128, 512), (128, 512)]
    glm = from_config(config(index_topk=1024, qk_rope_head_dim=0))
    assert glm == v32_shape(heads=32, index_topk=1024, rope_dim=0)
    shared = config(index_topk=1024, qk_rope_head_dim=0)
    shared.parallel_config.decode_context_parallel_size = 2
    # A rank attends for the heads of both, over as many picks of each row as it holds.
    both = v32_shape(heads=64, index_topk=1024, rope_dim=0, lengths=True)
    assert from_config(shared) == both
    assert from_config(config(qk_rope_head_dim=64)) is None
    assert from_config(config(index_topk=2048)) is None
    assert from_config(types.SimpleNamespace(model_config=None)) is None


def test_ratios_are_read_from_kinds_of_layers_as_well() -> None:
    kinds = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    newer = types.SimpleNamespace(
        layer_types=kinds, compress_rates=dict(zip(kinds[1:], (4, 128), strict=True)),
        num_nextn_predict_layers=1,
    )  # fmt: skip
    assert ratios_of(newer) == (0, 4, 128, 0)
    assert ratios_of(types.SimpleNamespace(compress_ratios=[1, 4])) == (0, 4)
    assert ratios_of(types.SimpleNamespace(layer_types=kinds)) == ()


def test_the_configuration_that_transformers_has_is_v4s() -> None:
    theirs = pytest.importorskip("transformers")
    if not hasattr(theirs, "DeepseekV4Config"):
        pytest.skip("this transformers has no DeepSeek V4")
    hf = theirs.DeepseekV4Config()
    whole = config()
    whole.model_config.hf_text_config = hf
    found = from_config(whole)
    assert found is not None
    assert found.layout is V4
    assert {layer.page_sizes for layer in found.layers} == {(64,), (64, 64), (64, 2)}
    gemm = warmup_gemm.from_config(types.SimpleNamespace(**vars(whole), speculative_config=None))
    assert gemm is not None
    assert gemm.projection is not None
    assert gemm.connection is not None


@pytest.mark.parametrize(
    "shape",
    [
        v4_shape(
            heads=4, window=64, index_topk=64, ratios=[0, 128], block_size=256, max_model_len=512
        ),
        v32_shape(heads=4, index_topk=128, rope_dim=0),
    ],
    ids=["V4", "V3.2"],
)
def test_every_variant_runs_as_it_says(
    shape: warmup.Shape,
    monkeypatch: pytest.MonkeyPatch,
    log_of: Callable[[str], list[logging.LogRecord]],
) -> None:
    records = log_of(warmup.logger.name)
    launched: list[int] = []
    launch = decode._launch

    def watch(chosen: Any, *args: Any) -> None:
        launched.append(chosen.splits)
        launch(chosen, *args)

    monkeypatch.setattr(decode, "_launch", watch)
    warm_up(shape, torch.device("cpu"))
    expected = [v.splits for v in variants(shape) if v.layer]
    assert launched == expected and max(expected) > 1
    (record,) = records
    assert f"{len(variants(shape))} kernel variants" in record.getMessage()
