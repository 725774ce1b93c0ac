# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's functions as vLLM calls them: what comes back, and which calls are refused."""

import ast
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import interpreted
import pytest
import torch
from vllm.sm12x.ops import deep_gemm
from vllm.sm12x.reference import einsum, logits

kernels = interpreted.kernels("mqa_logits", "paged_mqa_logits", "fp8_einsum", "hc_prenorm")

E4M3 = torch.float8_e4m3fn
INF = float("inf")


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def numbers(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def prompt() -> dict[str, Any]:
    return {
        "q": (noise(2, 8, 32).to(E4M3), None),
        "kv": (noise(45, 32).to(E4M3), noise(45).exp()),
        "weights": noise(2, 8),
        "cu_seqlen_ks": numbers(0, 3),
        "cu_seqlen_ke": numbers(45, 9),
        "clean_logits": True,
    }


def decode() -> dict[str, Any]:
    cache = torch.zeros(2, 64 * 36, dtype=torch.uint8)
    cache[:, : 64 * 32] = noise(2, 64 * 32).to(E4M3).view(torch.uint8)
    cache[:, 64 * 32 :] = noise(2, 64).exp().view(torch.uint8)
    return {
        "q": (noise(2, 1, 8, 32).to(E4M3), None),
        "kv_cache": cache.view(2, 64, 1, 36),
        "weights": noise(2, 8),
        "context_lens": numbers([70], [0]),
        "block_tables": numbers([1, 0], [0, 0]),
        "schedule_metadata": torch.zeros(49, 2, dtype=torch.int32),
        "max_model_len": 101,
        "clean_logits": True,
    }


def product() -> dict[str, Any]:
    return {
        "equation": "bhr,hdr->bhd",
        "a": (noise(2, 3, 128).to(E4M3).transpose(0, 1), noise(3, 2, 1).exp()),
        "b": (noise(256, 128).to(E4M3), noise(2, 1).exp()),
        "out": torch.full((3, 2, 128), torch.nan, dtype=torch.bfloat16),
        "recipe": (1, 1, 128),
    }


def connection() -> dict[str, Any]:
    return {
        "x": noise(3, 128).bfloat16(),
        "fn": noise(24, 128),
        "out": torch.full((2, 3, 24), torch.nan),
        "sqrsum": torch.full((2, 3), torch.nan),
        "num_split": 2,
    }


def test_a_prompts_logits_are_clean_and_their_rows_aligned() -> None:
    given = prompt()
    out = deep_gemm.fp8_fp4_mqa_logits(**given)
    (k, scales), weights = given["kv"], given["weights"]
    first, end = given["cu_seqlen_ks"], given["cu_seqlen_ke"]
    expected = logits.mqa_logits(given["q"][0], k, scales, weights, first, end)
    assert (out.shape, out.dtype, out.stride()) == ((2, 45), torch.float32, (48, 1))
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tiled", ["1", "0"])
def test_decode_logits_are_clean_with_either_kernel(
    monkeypatch: pytest.MonkeyPatch, tiled: str
) -> None:
    monkeypatch.setenv(deep_gemm.TILED, tiled)
    used: list[bool] = []
    call = kernels[1].paged_mqa_logits

    def note(*args: Any, **kwargs: Any) -> None:
        used.append(kwargs["tiled"])
        call(*args, **kwargs)

    monkeypatch.setattr(kernels[1], "paged_mqa_logits", note)
    given = decode()
    out = deep_gemm.fp8_fp4_paged_mqa_logits(**given)
    cache = given["kv_cache"].squeeze(2)
    expected = logits.paged_mqa_logits(
        given["q"][0], cache, given["weights"], given["context_lens"], given["block_tables"], 101
    )
    assert (out.shape, out.stride()) == ((2, 101), (104, 1))
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)
    assert used == [tiled == "1"]


def test_no_rows_no_keys_and_no_columns_need_no_kernel() -> None:
    given = prompt()
    given["kv"] = (torch.empty(0, 32, dtype=E4M3), torch.empty(0))
    assert deep_gemm.fp8_fp4_mqa_logits(**given).shape == (2, 0)
    given = decode()
    given["max_model_len"] = 0
    assert deep_gemm.fp8_fp4_paged_mqa_logits(**given).shape == (2, 0)
    given = connection()
    given |= {"x": noise(0, 128).bfloat16(), "out": noise(2, 0, 24), "sqrsum": noise(2, 0)}
    deep_gemm.tf32_hc_prenorm_gemm(**given)


def test_the_schedule_has_deepgemms_shape() -> None:
    plan = deep_gemm.get_paged_mqa_logits_metadata(numbers([3], [4]), 64, 48)
    assert (plan.shape, plan.dtype) == ((49, 2), torch.int32)


def test_einsum_takes_weights_that_nobody_reshaped() -> None:
    given = product()
    deep_gemm.fp8_einsum(**given)
    (a, a_scale), (weight, scale) = given["a"], given["b"]
    three = (weight.view(2, 128, 128), scale.view(2, 1, 1))
    expected = einsum.fp8_einsum(a, a_scale, *three)
    flat = given["out"].clone()
    torch.testing.assert_close(flat.double(), expected, rtol=1e-2, atol=1e-2)
    given["b"] = three
    deep_gemm.fp8_einsum(**given)
    assert torch.equal(given["out"], flat)


def test_einsum_reads_float8_e8m0fnu() -> None:
    given = product()
    exponents = torch.tensor([[126], [129]], dtype=torch.uint8)
    given["b"] = (given["b"][0], exponents.view(torch.float8_e8m0fnu))
    deep_gemm.fp8_einsum(**given)
    powers, (a, a_scale) = torch.tensor([0.5, 4.0]).view(2, 1, 1), given["a"]
    expected = einsum.fp8_einsum(a, a_scale, given["b"][0].view(2, 128, 128), powers)
    torch.testing.assert_close(given["out"].double(), expected, rtol=1e-2, atol=1e-1)


def test_prenorm_without_columns_has_sums_of_squares_all_the_same() -> None:
    given = connection()
    m, k = given["x"].shape
    given |= {"fn": torch.empty(0, k), "out": torch.empty(2, m, 0)}
    deep_gemm.tf32_hc_prenorm_gemm(**given)
    _, squares = einsum.hc_prenorm(given["x"], given["fn"])
    torch.testing.assert_close(given["sqrsum"].sum(0).double(), squares, rtol=1e-6, atol=0)


def test_prenorm_writes_parts_or_the_whole() -> None:
    given = connection()
    deep_gemm.tf32_hc_prenorm_gemm(**given)
    expected, squares = einsum.hc_prenorm(given["x"], given["fn"])
    torch.testing.assert_close(given["out"].sum(0).double(), expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(given["sqrsum"].sum(0).double(), squares, rtol=1e-6, atol=0)
    given |= {"out": torch.empty(3, 24), "sqrsum": torch.empty(3), "num_split": None}
    deep_gemm.tf32_hc_prenorm_gemm(**given)
    torch.testing.assert_close(given["out"].double(), expected, rtol=1e-5, atol=1e-3)


WRONG = [
    ("fp8_fp4_mqa_logits", prompt, {"q": (noise(2, 8, 32).to(E4M3), numbers(1))}, r"q\[1\] is"),
    ("fp8_fp4_mqa_logits", prompt, {"q": (noise(2, 8, 32), None)}, r"q\[0\] is"),
    ("fp8_fp4_mqa_logits", prompt, {"q": (noise(2, 8, 48).to(E4M3), None)}, "32, 64 or 128"),
    ("fp8_fp4_mqa_logits", prompt, {"kv": (noise(45, 32), noise(45))}, r"kv\[0\] is"),
    (
        "fp8_fp4_mqa_logits", prompt,
        {"kv": (noise(45, 32).to(E4M3), noise(44))}, r"kv\[1\] is \(44,\)",
    ),
    ("fp8_fp4_mqa_logits", prompt, {"weights": noise(2, 8).bfloat16()}, "weights is"),
    ("fp8_fp4_mqa_logits", prompt, {"cu_seqlen_ke": numbers(1)}, "cu_seqlen_ke is"),
    (
        "fp8_fp4_paged_mqa_logits", decode,
        {"kv_cache": torch.zeros(2, 64, 1, 32, dtype=torch.uint8)}, "kv_cache is",
    ),
    (
        "fp8_fp4_paged_mqa_logits", decode,
        {"kv_cache": torch.zeros(2, 20, 1, 36, dtype=torch.uint8)}, "16, 32, ... tokens",
    ),
    ("fp8_fp4_paged_mqa_logits", decode, {"weights": noise(3, 8)}, "weights is"),
    ("fp8_fp4_paged_mqa_logits", decode, {"context_lens": numbers([1, 2], [1, 2])}, "context_lens"),
    ("fp8_fp4_paged_mqa_logits", decode, {"block_tables": numbers([1])}, "block_tables is"),
    ("fp8_einsum", product, {"equation": "bhd,hdr->bhr"}, "equation is"),
    ("fp8_einsum", product, {"recipe": (1, 1, 32)}, "recipe"),
    ("fp8_einsum", product, {"out": torch.empty(3, 2, 96, dtype=torch.bfloat16)}, "d is 96"),
    (
        "fp8_einsum", product,
        {"a": (noise(3, 2, 128).to(E4M3), noise(3, 2, 2))}, r"a\[1\] is \(3, 2, 2\)",
    ),
    ("fp8_einsum", product, {"b": (noise(256, 128).to(E4M3), noise(2, 2))}, r"b\[1\] is"),
    (
        "fp8_einsum", product,
        {"b": (noise(256, 128).to(E4M3), numbers([1], [2]))}, "float32 or float8_e8m0fnu",
    ),
    ("tf32_hc_prenorm_gemm", connection, {"x": noise(3, 128)}, "x is"),
    (
        "tf32_hc_prenorm_gemm", connection,
        {"x": noise(3, 96).bfloat16(), "fn": noise(24, 96)}, "64 divides",
    ),
    ("tf32_hc_prenorm_gemm", connection, {"num_split": 3}, "out is"),
    ("tf32_hc_prenorm_gemm", connection, {"sqrsum": noise(3, 2).T}, "sqrsum is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "make", "change", "message"), WRONG, ids=[f"{w[0]}: {w[3]}" for w in WRONG]
)
def test_an_argument_that_does_not_fit_is_named(
    name: str, make: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(deep_gemm, name)(**(make() | change))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("fp8_fp4_mqa_logits", prompt),
        ("fp8_fp4_paged_mqa_logits", decode),
        ("fp8_einsum", product),
        ("tf32_hc_prenorm_gemm", connection),
    ],
)
def test_off_the_gpu_the_reference_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, make: Any
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match=rf"{name} got tensors on cpu.*vllm\.sm12x\.reference\."):
        getattr(deep_gemm, name)(**make())


@pytest.mark.parametrize(
    ("name", "make", "more"),
    [
        ("fp8_fp4_mqa_logits", prompt, set()),
        ("fp8_fp4_paged_mqa_logits", decode, set()),
        ("fp8_einsum", product, {"unflatten"}),
        ("tf32_hc_prenorm_gemm", connection, set()),
    ],
)
def test_checks_neither_copy_a_tensor_nor_read_one_back(
    monkeypatch: pytest.MonkeyPatch, name: str, make: Any, more: set[str]
) -> None:
    """What isn't a view or an allocation would be a launch, or a wait for the GPU."""
    for module in kernels:
        function = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, function, lambda *args, **kwargs: None)
    given = make()
    if "clean_logits" in given:
        given["clean_logits"] = False
    with torch.autograd.profiler.profile() as profile:
        getattr(deep_gemm, name)(**given)
    names = {event.name.removeprefix("aten::") for event in profile.function_events}
    allowed = {"view", "slice", "squeeze", "unsqueeze", "as_strided", "empty", "alias", "detach"}
    assert names <= allowed | more


def test_signatures_are_those_of_the_vllm_that_is_installed() -> None:
    vllm = importlib.util.find_spec("vllm")
    folders = (vllm.submodule_search_locations or ()) if vllm else ()
    paths = [Path(folder) / "utils" / "deep_gemm.py" for folder in folders]
    found = [path for path in paths if path.exists()]
    if not found:
        pytest.skip("no vLLM is installed")
    tree = ast.parse(found[0].read_text(encoding="utf-8"))
    theirs = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    ours = {name: list(inspect.signature(getattr(deep_gemm, name)).parameters) for name in theirs
            if name in deep_gemm.__all__}  # fmt: skip
    assert set(ours) == set(deep_gemm.__all__)
    if "indices" in (argument.arg for argument in theirs["fp8_fp4_paged_mqa_logits"].args):
        pytest.skip("this vLLM has DeepGEMM for SM12x and newer signatures")
    for name, arguments in ours.items():
        wrapped = [argument.arg for argument in theirs[name].args]
        assert not wrapped or arguments == wrapped
