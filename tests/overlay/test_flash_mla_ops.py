# SPDX-License-Identifier: Apache-2.0
"""FlashMLA's signatures: what reaches the kernels, what comes back, and which calls are refused.

The kernels have tests of their own; here the references stand in for them.
"""

import ast
import importlib.util
import inspect
import itertools
import math
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32, Layout
from vllm.sm12x.ops import flash_mla
from vllm.sm12x.ops.flash_mla import flash_mla_sparse_fwd, flash_mla_with_kvcache, get_mla_metadata
from vllm.sm12x.reference import decode, prefill
from vllm.sm12x.scope import Scope

BOTH = pytest.mark.parametrize("layout", [V4, V32], ids=lambda layout: layout.name)


class Kernels:
    """Stand-ins for the kernels that note how they are called."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def sparse_decode(
        self,
        q: torch.Tensor,
        scopes: Sequence[Scope],
        *,
        scale: float,
        sink: torch.Tensor | None,
        out: torch.Tensor,
        lse: torch.Tensor,
        batch_invariant: bool,
    ) -> None:
        self.calls.append({"q": q, "scopes": scopes, "batch_invariant": batch_invariant})
        result, lse[:] = decode.sparse_decode(q, scopes, scale=scale, sink=sink)
        out[:] = result

    def sparse_prefill(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        indices: torch.Tensor,
        *,
        scale: float,
        sink: torch.Tensor | None,
        lengths: torch.Tensor | None,
        out: torch.Tensor,
        max_logits: torch.Tensor,
        lse: torch.Tensor,
    ) -> None:
        self.calls.append({"q": q, "kv": kv, "indices": indices})
        result, max_logits[:], lse[:] = prefill.sparse_prefill(
            q, kv, indices, scale=scale, sink=sink, lengths=lengths
        )
        out[:] = result

    def install(self, patch: pytest.MonkeyPatch) -> None:
        package = types.ModuleType("vllm.sm12x.kernels")
        for name in ("decode", "prefill"):
            module = types.ModuleType(f"{package.__name__}.{name}")
            setattr(module, f"sparse_{name}", getattr(self, f"sparse_{name}"))
            patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(sys.modules, package.__name__, package)
        patch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    stand_in = Kernels()
    stand_in.install(monkeypatch)
    return stand_in


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(*shape, generator=generator).bfloat16()


def cache_of(layout: Layout, pages: int, page_size: int, *, gap: int = 0) -> torch.Tensor:
    """A full cache in the form vLLM passes, (pages, page size, 1, bytes)."""
    stride = layout.page_bytes(page_size) + gap
    cache = layouts.empty_cache(layout, pages, page_size, page_stride=stride, fill=255)
    slots = torch.arange(pages * page_size)
    layouts.pack(cache, slots, noise(len(slots), layout.head_dim))
    return cache.unsqueeze(-2)


def decode_arguments(layout: Layout, b: int = 2, s_q: int = 1, heads: int = 3) -> dict[str, Any]:
    """A call of the sparse form as vLLM makes it, with everything that it may hold."""
    generator = torch.Generator().manual_seed(0)

    def picks(limit: int, k: int) -> torch.Tensor:
        return torch.randint(-1, limit, (b, s_q, k), generator=generator, dtype=torch.int32)

    return {
        "q": noise(b, s_q, heads, layout.head_dim),
        "k_cache": cache_of(layout, 3, 4),
        "block_table": None,
        "cache_seqlens": None,
        "head_dim_v": 512,
        "tile_scheduler_metadata": get_mla_metadata()[0],
        "softmax_scale": 0.07,
        "is_fp8_kvcache": True,
        "indices": picks(12, 5),
        "topk_length": torch.arange(3, 3 + b, dtype=torch.int32),
        "attn_sink": torch.linspace(-1, 1, heads),
        "extra_k_cache": cache_of(layout, 2, 2, gap=1152),
        "extra_indices_in_kvcache": picks(4, 3),
        "extra_topk_length": torch.arange(1, 1 + b, dtype=torch.int32),
    }


def prefill_arguments(s_q: int = 3, heads: int = 2) -> dict[str, Any]:
    return {
        "q": noise(s_q, heads, 512),
        "kv": noise(9, 1, 512),
        "indices": torch.arange(4 * s_q, dtype=torch.int32).view(s_q, 1, 4),
        "sm_scale": 0.07,
        "attn_sink": torch.linspace(-1, 1, heads),
        "topk_length": torch.arange(2, 2 + s_q, dtype=torch.int32),
    }


@BOTH
@pytest.mark.parametrize("s_q", [1, 3])
def test_each_query_token_is_a_row_with_its_own_indices_and_its_batchs_length(
    kernels: Kernels, layout: Layout, s_q: int
) -> None:
    given = decode_arguments(layout, s_q=s_q)
    out, lse = flash_mla_with_kvcache(**given)
    assert (out.shape, out.dtype) == ((2, s_q, 3, 512), torch.bfloat16)
    assert (lse.shape, lse.dtype) == ((2, 3, s_q), torch.float32)
    for b in range(2):
        for s in range(s_q):
            scopes = [
                Scope(
                    cache=given[cache].squeeze(2),
                    indices=given[indices][b, s, : given[length][b]][None],
                )
                for cache, indices, length in (
                    ("k_cache", "indices", "topk_length"),
                    ("extra_k_cache", "extra_indices_in_kvcache", "extra_topk_length"),
                )
            ]
            expected, expected_lse = decode.sparse_decode(
                given["q"][b, s][None], scopes, scale=0.07, sink=given["attn_sink"]
            )
            torch.testing.assert_close(out[b, s], expected[0].bfloat16())
            torch.testing.assert_close(lse[b, :, s], expected_lse[0].float())


def test_the_call_of_v32_has_one_batch_row_and_no_lengths_or_sink(kernels: Kernels) -> None:
    given = decode_arguments(V32, b=1, s_q=4)
    optional = ("topk_length", "attn_sink", "softmax_scale")
    for name in [*optional, *(name for name in given if name.startswith("extra_"))]:
        del given[name]
    given["block_table"] = torch.empty(1, 1, dtype=torch.int32)
    given["cache_seqlens"] = torch.tensor([99], dtype=torch.int32)
    out, lse = flash_mla_with_kvcache(**given)
    (scope,) = kernels.calls[0]["scopes"]
    assert scope.indices.shape == (4, 5)
    assert scope.lengths is None
    expected, expected_lse = decode.sparse_decode(given["q"][0], [scope], scale=576**-0.5)
    torch.testing.assert_close(out[0], expected.bfloat16())
    torch.testing.assert_close(lse[0], expected_lse.float().T)


def test_a_model_without_rope_reads_a_v32_cache(kernels: Kernels) -> None:
    given = decode_arguments(V32)
    given["q"] = given["q"][..., :512].contiguous()
    out, _ = flash_mla_with_kvcache(**given)
    given["q"] = torch.nn.functional.pad(given["q"], (0, 64))
    given["tile_scheduler_metadata"] = None
    torch.testing.assert_close(out, flash_mla_with_kvcache(**given)[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_a_cache_of_any_byte_is_taken_where_it_lies(kernels: Kernels, dtype: torch.dtype) -> None:
    given = decode_arguments(V4)
    extra = given["extra_k_cache"]
    given["extra_k_cache"] = extra.view(dtype)
    flash_mla_with_kvcache(**given)
    taken = kernels.calls[0]["scopes"][1].cache
    assert (taken.data_ptr(), taken.stride()) == (extra.data_ptr(), (1152 + 1152 + 576, 584, 1))


def test_the_output_is_written_in_place_also_into_a_part_of_a_buffer(kernels: Kernels) -> None:
    given = decode_arguments(V4)
    buffer = torch.full((5, 8, 512), 7.0, dtype=torch.bfloat16)
    output = buffer[:2, :3].unsqueeze(1)
    expected, _ = flash_mla_with_kvcache(**given)
    out, _ = flash_mla_with_kvcache(**given, out=output)
    assert out is output
    assert torch.equal(buffer[:2, :3], expected[:, 0])
    assert buffer[2:].eq(7).all()
    assert buffer[:, 3:].eq(7).all()


def test_prefill_returns_output_largest_logit_and_lse(kernels: Kernels) -> None:
    given = prefill_arguments()
    buffer = torch.empty(5, 2, 512, dtype=torch.bfloat16)
    out, max_logits, lse = flash_mla_sparse_fwd(**given, out=buffer[1:4])
    expected = prefill.sparse_prefill(
        given["q"],
        given["kv"][:, 0],
        given["indices"][:, 0],
        scale=0.07,
        sink=given["attn_sink"],
        lengths=given["topk_length"],
    )
    for ours, theirs in zip((out, max_logits, lse), expected, strict=True):
        torch.testing.assert_close(ours, theirs.to(ours.dtype))
    assert out.data_ptr() == buffer[1].data_ptr()
    del given["attn_sink"], given["topk_length"]
    fresh, _, _ = flash_mla_sparse_fwd(**given)
    assert not torch.equal(fresh, out)


def test_no_rows_call_no_kernel(kernels: Kernels) -> None:
    given = decode_arguments(V4, b=0)
    out, lse = flash_mla_with_kvcache(**given)
    assert (out.shape, lse.shape) == ((0, 1, 3, 512), (0, 3, 1))
    given = prefill_arguments(s_q=0)
    assert [x.shape[0] for x in flash_mla_sparse_fwd(**given)] == [0, 0, 0]
    assert kernels.calls == []


@pytest.mark.parametrize("s_q", [1, 3])
def test_checks_neither_copy_a_tensor_nor_read_one_back(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, s_q: int
) -> None:
    """What isn't a view or an allocation would be a launch, or a wait for the GPU."""
    for name in ("decode", "prefill"):
        module = sys.modules[f"vllm.sm12x.kernels.{name}"]
        monkeypatch.setattr(module, f"sparse_{name}", lambda *args, **kwargs: None)
    decode_call, prefill_call = decode_arguments(V4, s_q=s_q), prefill_arguments()
    with torch.autograd.profiler.profile() as profile:
        flash_mla_with_kvcache(**decode_call)
        flash_mla_sparse_fwd(**prefill_call)
    names = {event.name.removeprefix("aten::") for event in profile.function_events}
    assert "flatten" in names
    views = {"view", "squeeze", "unsqueeze", "expand", "transpose", "as_strided", "flatten"}
    allocations = {"empty", "empty_strided", "empty_like", "new_empty"}
    # Where a batch row's length serves several query rows it is written out for each.
    lengths = {"clone", "copy_", "_unsafe_view"} if s_q > 1 else set()
    assert names - {"reshape", "detach", "alias"} <= views | allocations | lengths


def test_batch_invariance_reaches_the_kernel(kernels: Kernels) -> None:
    given = decode_arguments(V4)
    flash_mla_with_kvcache(**given)
    given["tile_scheduler_metadata"] = None
    flash_mla_with_kvcache(**given, enable_batch_invariant=True)
    assert [call["batch_invariant"] for call in kernels.calls] == [False, True]


def test_a_scheduling_object_serves_every_layer_of_one_shape(kernels: Kernels) -> None:
    meta, nothing = get_mla_metadata(torch.zeros(2), 64, num_heads_k=1)
    assert nothing is None
    assert (meta.have_initialized, meta.config) == (False, None)
    given = decode_arguments(V4)
    given["tile_scheduler_metadata"] = meta
    for _ in range(3):
        flash_mla_with_kvcache(**given)
    assert meta.have_initialized
    assert meta.config == flash_mla.FlashMLASchedMeta.Config(
        b=2,
        s_q=1,
        h_q=3,
        page_block_size=4,
        h_k=1,
        causal=False,
        is_fp8_kvcache=True,
        topk=5,
        extra_page_block_size=2,
        extra_topk=3,
    )
    given["q"] = given["q"][:, :, :2].contiguous()
    given["attn_sink"] = given["attn_sink"][:2]
    with pytest.raises(ValueError, match=r"h_q 3 -> 2; expected a fresh one"):
        flash_mla_with_kvcache(**given)


def test_a_scheduling_object_of_somebody_else_is_not_needed(kernels: Kernels) -> None:
    given = decode_arguments(V4)
    for other in (None, object()):
        given["tile_scheduler_metadata"] = other
        flash_mla_with_kvcache(**given)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(given: dict[str, Any]) -> None:
        given[name] = change(given.get(name))

    return apply


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return changed(name, lambda _: None)


WRONG_DECODE = [
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
    (changed("extra_k_cache", lambda _: cache_of(V32, 1, 2)), "extra_k_cache is .*584 bytes"),
    (changed("extra_topk_length", lambda n: n.float()), "extra_topk_length is .* float32.*int32"),
    (changed("out", lambda _: torch.empty(2, 1, 3, 512)), "out is .* float32.*bfloat16"),
    (changed("out", lambda _: noise(2, 1, 4, 512)), r"out is \(2, 1, 4, 512\).*\(2, 1, 3, 512\)"),
]


@pytest.mark.parametrize(
    ("change", "message"), WRONG_DECODE, ids=lambda x: x if isinstance(x, str) else ""
)
def test_decode_names_the_argument_that_does_not_fit(
    kernels: Kernels, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    given = decode_arguments(V4)
    change(given)
    with pytest.raises(ValueError, match=message):
        flash_mla_with_kvcache(**given)
    assert kernels.calls == []


def test_an_output_whose_rows_are_not_evenly_apart_is_refused(kernels: Kernels) -> None:
    given = decode_arguments(V4, s_q=2)
    with pytest.raises(ValueError, match=r"out is .*first two dimensions be one"):
        flash_mla_with_kvcache(**given, out=noise(2, 3, 3, 512)[:, :2])


WRONG_PREFILL = [
    (changed("q", lambda q: q[0]), r"q is \(2, 512\).*\(s_q, heads, d\)"),
    (changed("q", lambda q: q[..., :256].contiguous()), "q is .*512 or 576"),
    (changed("kv", lambda kv: kv[:, 0]), r"kv is \(9, 512\).*\(s_kv, 1, 512\)"),
    (changed("kv", lambda _: noise(9, 1, 576)), r"kv is \(9, 1, 576\).*\(s_kv, 1, 512\)"),
    (changed("kv", lambda kv: kv[:0]), "kv is .*one key or more"),
    (changed("indices", lambda i: i[:, 0]), r"indices is \(3, 4\).*\(3, 1, k\) int32"),
    (changed("indices", lambda i: i.long()), "indices is .* int64"),
    (changed("d_v", lambda _: 128), "d_v is 128; expected 512"),
    (changed("attn_sink", lambda s: s[:1]), r"attn_sink is \(1,\).*\(2,\) float32"),
    (changed("topk_length", lambda n: n[:2]), r"topk_length is \(2,\).*\(3,\) int32"),
    (changed("out", lambda _: noise(3, 2, 576)), r"out is \(3, 2, 576\).*\(3, 2, 512\)"),
]


@pytest.mark.parametrize(
    ("change", "message"), WRONG_PREFILL, ids=lambda x: x if isinstance(x, str) else ""
)
def test_prefill_names_the_argument_that_does_not_fit(
    kernels: Kernels, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    given = prefill_arguments()
    change(given)
    with pytest.raises(ValueError, match=message):
        flash_mla_sparse_fwd(**given)
    assert kernels.calls == []


@pytest.mark.parametrize("value", [None, "0", ""])
def test_without_a_gpu_the_reference_is_named(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("TRITON_INTERPRET")
    else:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(
        RuntimeError, match=r"on cpu.*vllm\.sm12x\.reference\.decode\.sparse_decode"
    ):
        flash_mla_with_kvcache(**decode_arguments(V4))
    with pytest.raises(RuntimeError, match=r"on cpu.*reference\.prefill\.sparse_prefill"):
        flash_mla_sparse_fwd(**prefill_arguments())
    assert kernels.calls == []


# Triton's interpreter makes numbers of numpy arrays with one element.
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
def test_calls_run_on_the_kernels_that_the_wheel_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands in here: arguments go through to Triton, which its interpreter runs."""
    pytest.importorskip("triton", reason="the interpreter is part of Triton")
    interpreted = pytest.importorskip("interpreted", reason="pytest imports helpers elsewhere")
    interpreted.kernels("decode", "prefill")
    given = decode_arguments(V4, s_q=2)
    with pytest.MonkeyPatch.context() as patch:
        Kernels().install(patch)
        expected = flash_mla_with_kvcache(**given), flash_mla_sparse_fwd(**prefill_arguments())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    results = flash_mla_with_kvcache(**given), flash_mla_sparse_fwd(**prefill_arguments())
    for ours, theirs in zip(itertools.chain(*results), itertools.chain(*expected), strict=True):
        error = (ours.double() - theirs.double()).norm() / theirs.double().norm()
        assert error < (5e-3 if ours.dtype == torch.bfloat16 else 1e-5)


FUNCTIONS = (get_mla_metadata, flash_mla_with_kvcache, flash_mla_sparse_fwd)


def installed_interface() -> Path:
    vllm = importlib.util.find_spec("vllm")
    for folder in (vllm.submodule_search_locations or ()) if vllm else ():
        path = Path(folder) / "third_party" / "flashmla" / "flash_mla_interface.py"
        if path.exists():
            return path
    pytest.skip("no vLLM with FlashMLA is installed")


def test_signatures_are_those_of_the_flashmla_that_the_wheel_brings() -> None:
    tree = ast.parse(installed_interface().read_text(encoding="utf-8"))
    theirs = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    for function in FUNCTIONS[1:]:
        arguments = theirs[function.__name__]
        names = [argument.arg for argument in arguments.args]
        defaults = [ast.literal_eval(default) for default in arguments.defaults]
        ours = inspect.signature(function).parameters
        assert list(ours)[: len(names)] == names
        having = [p.default for p in ours.values() if p.default is not p.empty]
        assert having[: len(defaults)] == defaults
        # Arguments that this release doesn't have yet must be optional.
        assert len(having) - len(defaults) == len(ours) - len(names)


def test_signatures_have_the_arguments_that_callers_name() -> None:
    """The oldest release's list, for where no wheel is installed."""
    names = list(inspect.signature(flash_mla_with_kvcache).parameters)
    assert names[:8] == [
        "q",
        "k_cache",
        "block_table",
        "cache_seqlens",
        "head_dim_v",
        "tile_scheduler_metadata",
        "num_splits",
        "softmax_scale",
    ]
    assert list(inspect.signature(flash_mla_sparse_fwd).parameters)[:5] == [
        "q",
        "kv",
        "indices",
        "sm_scale",
        "d_v",
    ]


def test_importing_the_operators_imports_no_triton_and_nothing_of_vllm() -> None:
    root = Path(flash_mla.__file__).parents[3]
    code = (
        "import sys, types\n"
        "package = types.ModuleType('vllm')\n"
        f"package.__path__ = [{str(root / 'vllm')!r}]\n"
        "sys.modules['vllm'] = package\n"
        "import torch\n"
        "before = set(sys.modules)\n"
        "import vllm.sm12x.ops.flash_mla, vllm.sm12x.reference.decode\n"
        "new = set(sys.modules) - before\n"
        "print(*sorted(n for n in new if not n.startswith('vllm.sm12x')))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == []
