# SPDX-License-Identifier: Apache-2.0
"""flash_mla_with_kvcache refuses what doesn't fit, by name, before a kernel sees it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32, Layout
from vllm.sm12x.ops.flash_mla import flash_mla_with_kvcache


def rows(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, 512, dtype=torch.bfloat16)


def cache(layout: Layout, pages: int, page_size: int) -> torch.Tensor:
    return layouts.empty_cache(layout, pages, page_size).unsqueeze(-2)


def numbers(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def arguments(s_q: int = 1) -> dict[str, Any]:
    """A call that is refused for one reason only: there is no GPU."""
    return {
        "q": rows(2, s_q, 3),
        "k_cache": cache(V4, 3, 4),
        "block_table": None,
        "cache_seqlens": None,
        "head_dim_v": 512,
        "tile_scheduler_metadata": None,
        "is_fp8_kvcache": True,
        "indices": numbers(2, s_q, 5),
        "topk_length": numbers(2),
        "attn_sink": torch.zeros(3),
        "extra_k_cache": cache(V4, 2, 2),
        "extra_indices_in_kvcache": numbers(2, s_q, 3),
        "extra_topk_length": numbers(2),
    }


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(given: dict[str, Any]) -> None:
        given[name] = change(given.get(name))

    return apply


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return changed(name, lambda _: None)


WRONG = [
    (without("indices"), "indices is None.*dense form isn't here"),
    (changed("causal", lambda _: True), "causal is True; expected False"),
    (changed("is_fp8_kvcache", lambda _: False), "is_fp8_kvcache is False; expected True"),
    (changed("num_splits", lambda _: 3), "num_splits is 3; expected None"),
    (changed("head_dim_v", lambda _: 256), "head_dim_v is 256; expected 512"),
    (changed("q", torch.Tensor.float), r"q is \(2, 1, 3, 512\) float32.*expected.*bfloat16"),
    (changed("q", lambda q: q[:, 0]), r"q is \(2, 3, 512\).*expected \(b, s_q, heads, d\)"),
    (changed("q", lambda q: q[..., :448].contiguous()), "q is .*last dimension of 512 for a cache"),
    (changed("q", lambda q: q.mT.contiguous().mT), "q is .*expected .* stride 1 last"),
    (
        changed("k_cache", lambda c: c.squeeze(2)),
        r"k_cache is \(3, 4, 584\).*\(pages, page size, 1",
    ),
    (changed("k_cache", lambda c: c[..., :528]), r"k_cache is \(3, 4, 528\).*584 or 656"),
    (changed("k_cache", lambda c: c[:0]), "k_cache is .*one page or more"),
    (changed("k_cache", lambda c: c.bfloat16()), "k_cache is .*bfloat16.*expected uint8"),
    (changed("k_cache", lambda c: c.to("meta")), "k_cache is .* on meta; expected .* on cpu"),
    (changed("indices", lambda i: i.long()), r"indices is \(2, 1, 5\) int64.*\(2, 1, k\) int32"),
    (changed("indices", lambda i: i[:1]), r"indices is \(1, 1, 5\) .*\(2, 1, k\)"),
    (changed("indices", lambda i: i[:, 0]), r"indices is \(2, 5\).*\(2, 1, k\)"),
    (changed("topk_length", lambda n: n[:1]), r"topk_length is \(1,\).*\(2,\) int32"),
    (changed("attn_sink", lambda s: s[:2]), r"attn_sink is \(2,\).*\(3,\) float32"),
    (changed("attn_sink", torch.Tensor.bfloat16), "attn_sink is .* bfloat16.*float32"),
    (without("extra_k_cache"), "extra_indices_in_kvcache and extra_topk_length came alone"),
    (without("extra_indices_in_kvcache"), "extra_k_cache and extra_topk_length came alone"),
    (changed("extra_k_cache", lambda _: cache(V32, 1, 2)), "extra_k_cache is .*584 bytes"),
    (changed("extra_topk_length", lambda n: n.float()), "extra_topk_length is .* float32.*int32"),
    (changed("out", lambda _: torch.empty(2, 1, 3, 512)), "out is .* float32.*bfloat16"),
    (changed("out", lambda _: rows(2, 1, 4)), r"out is \(2, 1, 4, 512\).*\(2, 1, 3, 512\)"),
]


@pytest.mark.parametrize(
    ("change", "message"), WRONG, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_call_names_the_argument_that_does_not_fit(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    given = arguments()
    change(given)
    with pytest.raises(ValueError, match=message):
        flash_mla_with_kvcache(**given)


def test_an_output_whose_rows_are_not_evenly_apart_is_refused() -> None:
    given = arguments(s_q=2)
    with pytest.raises(ValueError, match=r"out is .*first two dimensions be one"):
        flash_mla_with_kvcache(**given, out=rows(2, 3, 3)[:, :2])


@pytest.mark.parametrize("value", [None, "0", ""])
def test_without_a_gpu_the_reference_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    else:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(
        RuntimeError, match=r"on cpu.*vllm\.sm12x\.reference\.decode\.sparse_decode"
    ):
        flash_mla_with_kvcache(**arguments())
