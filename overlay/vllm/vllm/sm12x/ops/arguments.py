# SPDX-License-Identifier: Apache-2.0
"""From FlashMLA's arguments to what kernels take: query rows, scopes, and rows to write into.

A batch row with several query tokens (speculative decoding) becomes as many query rows, each with
its own indices and with the length of its batch row.
"""

import torch

from ..layouts import V32, Layout, check_cache, describe
from ..layouts.scope import Scope
from .checks import check_tensor
from .schedule import FlashMLASchedMeta

HEAD_DIM_V = 512
CACHE_DTYPES = (torch.uint8, torch.int8, torch.float8_e4m3fn)
MAIN = ("k_cache", "indices", "topk_length")
EXTRA = ("extra_k_cache", "extra_indices_in_kvcache", "extra_topk_length")

# A cache, indices and lengths, as they came.
Given = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def check_sparse(*, causal: bool, is_fp8_kvcache: bool, num_splits: None, head_dim_v: int) -> None:
    """Raise ValueError unless the plain arguments are those of sparse attention over fp8."""
    for name, value, expected in (
        ("causal", causal, False),
        ("is_fp8_kvcache", is_fp8_kvcache, True),
        ("num_splits", num_splits, None),
        ("head_dim_v", head_dim_v, HEAD_DIM_V),
    ):
        if value != expected:
            raise ValueError(f"{name} is {value}; expected {expected} for sparse attention")


def check_sink(attn_sink: torch.Tensor | None, heads: int, device: torch.device) -> None:
    """Raise ValueError unless there is no sink or one number a head."""
    if attn_sink is not None:
        check_tensor("attn_sink", attn_sink, (heads,), torch.float32, device)


def read_scopes(q: torch.Tensor, main: Given, extra: Given) -> list[Scope]:
    """Return one or two scopes of one layout that the width of `q` fits."""
    scopes = [_read_scope(MAIN, main, q)]
    layout = check_cache(scopes[0].cache)
    _check_width(q, layout)
    given = [name for name, value in zip(EXTRA, extra, strict=True) if value is not None]
    if not given:
        return scopes
    if EXTRA[0] not in given or EXTRA[1] not in given:
        raise ValueError(
            f"{' and '.join(given)} came alone; expected {EXTRA[0]} and {EXTRA[1]} together, "
            "or nothing extra"
        )
    scopes.append(_read_scope(EXTRA, extra, q))
    if check_cache(scopes[1].cache) is not layout:
        raise ValueError(
            f"{EXTRA[0]} is {describe(scopes[1].cache)}; expected {layout.token_bytes} bytes a "
            f"token, as {MAIN[0]} has"
        )
    return scopes


def read_output(out: torch.Tensor | None, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output, new unless it is given, and a view of it as (rows, heads, 512)."""
    shape = (*q.shape[:-1], HEAD_DIM_V)
    if out is None:
        out = q.new_empty(shape)
    check_tensor("out", out, shape, q.dtype, q.device)
    rows = shape[0] * shape[1] if len(shape) == 4 else shape[0]
    try:
        return out, out.view(rows, *shape[-2:])
    except RuntimeError:
        raise ValueError(
            f"out is {describe(out)}; expected strides that let its first two dimensions be one"
        ) from None


def shapes(
    q: torch.Tensor, scopes: list[Scope], *, batch_invariant: bool
) -> FlashMLASchedMeta.Config:
    """Return what a scheduling object remembers of a call."""
    main, extra = scopes[0], scopes[1] if len(scopes) > 1 else None
    return FlashMLASchedMeta.Config(
        b=q.shape[0],
        s_q=q.shape[1],
        h_q=q.shape[2],
        page_block_size=main.cache.shape[1],
        h_k=1,
        causal=False,
        is_fp8_kvcache=True,
        topk=main.indices.shape[1],
        extra_page_block_size=extra.cache.shape[1] if extra else None,
        extra_topk=extra.indices.shape[1] if extra else None,
        enable_batch_invariant=batch_invariant,
    )


def _read_scope(names: tuple[str, str, str], given: Given, q: torch.Tensor) -> Scope:
    cache, indices, lengths = given
    b, s_q = q.shape[:2]
    if cache is None or indices is None:
        missing = names[0] if cache is None else names[1]
        raise ValueError(f"{missing} is None; expected a tensor: the dense form isn't here")
    check_tensor(names[1], indices, (b, s_q, "k"), torch.int32, q.device)
    if lengths is not None:
        check_tensor(names[2], lengths, (b,), torch.int32, q.device)
        # Nothing is copied where s_q is 1, and no count is read back from the device.
        lengths = lengths.unsqueeze(1).expand(b, s_q).reshape(-1)
    cache = _read_cache(names[0], cache, q.device)
    return Scope(cache=cache, indices=indices.flatten(0, 1), lengths=lengths)


def _read_cache(name: str, cache: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a cache (pages, page size, 1, bytes) without its head dimension, as uint8."""
    if cache.dim() != 4 or cache.shape[2] != 1 or not cache.shape[0]:
        raise ValueError(
            f"{name} is {describe(cache)} on {cache.device}; expected (pages, page size, 1, 584 or "
            "656), one page or more"
        )
    if cache.device != device or cache.dtype not in CACHE_DTYPES:
        raise ValueError(
            f"{name} is {describe(cache)} on {cache.device}; expected uint8 (or int8, "
            f"float8_e4m3fn) on {device}"
        )
    # Both keep the page stride: vLLM's pages are padded, and other layers' may lie between them.
    flat = cache.squeeze(2).view(torch.uint8)
    check_cache(flat, name)
    return flat


def _check_width(q: torch.Tensor, layout: Layout) -> None:
    widths = (layout.head_dim, layout.nope_dim) if layout is V32 else (layout.head_dim,)
    if q.shape[-1] not in widths:
        raise ValueError(
            f"q is {describe(q)}; expected a last dimension of {' or '.join(map(str, widths))} "
            f"for a cache of {layout.token_bytes} bytes a token"
        )
