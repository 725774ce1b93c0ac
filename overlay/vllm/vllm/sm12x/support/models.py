# SPDX-License-Identifier: Apache-2.0
"""The path of each model that sparse MLA serves, for who has a release and no model at hand.

The layers ask vLLM's own checks instead. tests/integration holds the two against each other on
every pinned release, with the code of that release and of the FlashInfer that it pins.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .choice import (
    Cache,
    Choice,
    Route,
    decide,
    not_sm12x,
    sharing_refused,
    triton_lacks,
    vllm_refuses,
)
from .flashinfer import FlashInfer, release_of

# The first vLLM that asks FlashInfer for V4's shapes, how wide V4's window is, and how wide the one
# of DSpark's drafts is, which see each other.
ASKS_SHAPES = (0, 28)
WINDOW, DRAFT_WINDOW = 128, 192
# Heads are padded to one of these.
PADDED_HEADS = (8, 16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A model as its configuration says it, and the first vLLM that has it.

    `dcp`: it is served with decode context parallelism.
    """

    name: str
    layout: Cache
    index_topk: int
    rope_dim: int
    heads: int
    since: tuple[int, ...]
    dcp: bool = False


KINDS = (
    Kind(
        name="DeepSeek V4-Flash",
        layout=Cache.V4, index_topk=512, rope_dim=64, heads=64, since=(0, 20),
    ),
    Kind(
        name="DeepSeek V4-Pro",
        layout=Cache.V4, index_topk=1024, rope_dim=64, heads=128, since=(0, 20),
    ),
    Kind(
        name="DeepSeek V4.1-Flash",
        layout=Cache.V4, index_topk=512, rope_dim=64, heads=64, since=(0, 30),
    ),
    Kind(
        name="DeepSeek V4-Flash with decode context parallelism",
        layout=Cache.V4, index_topk=512, rope_dim=64, heads=64, since=(0, 20), dcp=True,
    ),
    Kind(
        name="DeepSeek V3.2",
        layout=Cache.V32, index_topk=2048, rope_dim=64, heads=128, since=(0, 20),
    ),
    Kind(
        name="GLM-5.2",
        layout=Cache.V32, index_topk=2048, rope_dim=64, heads=64, since=(0, 20),
    ),
    Kind(
        name="GLM-5.2 with decode context parallelism",
        layout=Cache.V32, index_topk=2048, rope_dim=64, heads=64, since=(0, 20), dcp=True,
    ),
    Kind(
        name="GLM-5.2 with 1024 picks a row",
        layout=Cache.V32, index_topk=1024, rope_dim=64, heads=64, since=(0, 20),
    ),
    Kind(
        name="GLM-5.3 (without RoPE)",
        layout=Cache.V32, index_topk=2048, rope_dim=0, heads=64, since=(0, 30),
    ),
    Kind(
        name="GLM-5.3 with decode context parallelism",
        layout=Cache.V32, index_topk=2048, rope_dim=0, heads=64, since=(0, 30), dcp=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a model takes on a device, with speculative decoding or without."""

    model: str
    speculation: bool
    choice: Choice


def paths(
    *,
    vllm_version: str,
    found: FlashInfer,
    shapes: frozenset[tuple[int, int]] | None,
    is_cuda: bool,
    capability: tuple[int, int] | None,
    forced: bool | None,
) -> tuple[Row, ...]:
    """Return two rows for each of KINDS.

    `shapes`: the (heads, window) that FlashInfer decodes V4 for, None where it has no table. The
    others are as `decide` has them.
    """
    return tuple(
        Row(
            model=kind.name,
            speculation=speculation,
            choice=_missing(kind, vllm_version, is_cuda, capability)
            or decide(
                is_cuda=is_cuda,
                capability=capability,
                forced=forced,
                refusal=_refusal(kind, vllm_version, found, shapes, speculation=speculation),
                danger=found.danger,
                lacks=triton_lacks(layout=kind.layout, rope_dim=kind.rope_dim),
            ),
        )
        for kind in KINDS
        for speculation in (False, True)
    )


def _missing(
    kind: Kind, version: str, is_cuda: bool, capability: tuple[int, int] | None
) -> Choice | None:
    if not_sm12x(is_cuda, capability):
        return None
    release = release_of(version)
    why = "this vLLM has no such model" if release and release < kind.since else ""
    if not why and kind.dcp:
        why = sharing_refused(version, layout=kind.layout)
    return Choice(path=Route.NONE, why=why) if why else None


def _refusal(
    kind: Kind,
    version: str,
    found: FlashInfer,
    shapes: frozenset[tuple[int, int]] | None,
    *,
    speculation: bool,
) -> str:
    known = vllm_refuses(
        version,
        layout=kind.layout,
        index_topk=kind.index_topk,
        rope_dim=kind.rope_dim,
    )
    known = known or found.refuses(rope_dim=kind.rope_dim)
    release = release_of(version)
    asks = not release or release >= ASKS_SHAPES
    if known or kind.layout is not Cache.V4 or shapes is None or not asks:
        return known
    padded = _padded(kind.heads)
    absent = [width for width in _windows(speculation) if (padded, width) not in shapes]
    if not absent:
        return ""
    return f"{found.name} has no V4 kernels for {kind.heads} heads and a window of {absent[0]}"


def _windows(speculation: bool) -> Iterator[int]:
    yield WINDOW
    if speculation:
        yield DRAFT_WINDOW


def _padded(heads: int) -> int:
    return next(padded for padded in PADDED_HEADS if heads <= padded)
