# SPDX-License-Identifier: Apache-2.0
"""V4's operators in a compiled graph: the release's pass on a graph that torch made."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import devices
import pytest
from devices import OTHERS, SM12X, SM120, Device
from packaging.version import Version

pytestmark = pytest.mark.filterwarnings("default")

FILE = Path("vllm", "compilation", "passes", "utility", "fix_functionalization.py")
PACKAGE = "vllm.compilation.passes.utility"


@pytest.fixture(scope="module")
def operators(base: Version) -> ModuleType:
    """V4's module, which registers its operators."""
    if base >= Version("0.23"):
        pytest.skip("this release doesn't compile V4")
    newer = base >= Version("0.22")
    return importlib.import_module(
        "vllm.models.deepseek_v4.attention"
        if newer
        else "vllm.model_executor.layers.deepseek_v4_attention"
    )


@pytest.fixture
def graph(operators: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """What torch makes of V4's output projection before Inductor's last passes."""
    import torch
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor import config
    from torch._inductor.decomposition import select_decomp_table

    def projection(a: Any, scales: Any) -> Any:
        out = torch.empty_like(a)
        torch.ops.vllm.deepseek_v4_fp8_einsum(
            a * 2, scales, a, scales, out, "bhr,hdr->bhd", [1, 1, 128]
        )
        return out + 1

    def make(scale_dtype: Any) -> Any:
        made: list[Any] = []

        def keep(module: Any, example_inputs: Any) -> Any:
            made.append(module)
            return module.forward

        torch._dynamo.reset()
        with config.patch(enable_auto_functionalized_v2=False):
            backend = aot_autograd(fw_compiler=keep, decompositions=select_decomp_table())
            inputs = torch.ones(4, 4), torch.ones(4, 4).to(scale_dtype)
            torch.compile(projection, backend=backend, fullgraph=True)(*inputs)
        (module,) = made
        return module

    def einsum(equation: str, a: Any, b: Any, out: Any, recipe: Any) -> None:
        out.copy_(a[0] * 3)

    monkeypatch.setattr(operators, "fp8_einsum", einsum)
    return make


@pytest.fixture
def load(
    operators: ModuleType, base: Version, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """The release's pass as a device has it; `root` is the tree to take its file from."""
    import torch
    import vllm

    # The pass names operators of the compiled extensions, which a CPU's vLLM doesn't load.
    declared = torch.library.Library("_C", "FRAGMENT")
    text = (Path(vllm.__file__).parents[1] / FILE).read_text(encoding="utf-8")
    for name in sorted({part.split(".")[0] for part in text.split("torch.ops._C.")[1:]}):
        if not hasattr(torch.ops._C, name):
            declared.define(f"{name}(Tensor x) -> ()")

    def make(device: Device = SM120, root: Path | None = None) -> Any:
        devices.use(device, monkeypatch)
        path = (root or Path(vllm.__file__).parents[1]) / FILE
        module = devices.load(path, monkeypatch, PACKAGE)
        made = module.FixFunctionalizationPass.__new__(module.FixFunctionalizationPass)
        made.pass_name, made.dump_graph = "pass", lambda *_: None
        return made

    yield make
    declared._destroy()


def wrapped(module: Any) -> int:
    from torch._higher_order_ops.auto_functionalize import auto_functionalized

    return sum(node.target is auto_functionalized for node in module.graph.nodes)


@pytest.mark.parametrize("device", SM12X, ids=str)
@pytest.mark.parametrize("scales", ["float32", "float8_e8m0fnu"])
def test_a_call_is_plain_after_the_pass_and_writes_where_it_is_told(
    graph: Callable[[Any], Any], load: Callable[..., Any], device: Device, scales: str
) -> None:
    import torch
    from torch._inductor.fx_passes.post_grad import decompose_auto_functionalized

    dtype = getattr(torch, scales)
    module = graph(dtype)
    assert wrapped(module) == 1
    load(device)(module.graph)
    assert wrapped(module) == 0
    decompose_auto_functionalized(module.graph)  # has nothing to do, and says so
    module.recompile()
    (out,) = module(torch.full((4, 4), 5.0), torch.ones(4, 4).to(dtype))
    assert torch.equal(out, torch.full((4, 4), 5.0 * 2 * 3 + 1))


def test_without_it_inductor_stops_at_scales_in_e8m0(
    graph: Callable[[Any], Any], load: Callable[..., Any], pristine: Path
) -> None:
    import torch
    from torch._inductor.fx_passes.post_grad import decompose_auto_functionalized

    module = graph(torch.float8_e8m0fnu)
    load(SM120, pristine)(module.graph)
    assert wrapped(module) == 1
    with pytest.raises(AssertionError, match="auto_functionalized was not removed"):
        decompose_auto_functionalized(module.graph)


@pytest.mark.parametrize("device", [one for one in OTHERS if one.platform != "cpu"], ids=str)
def test_elsewhere_the_pass_is_upstreams(
    graph: Callable[[Any], Any], load: Callable[..., Any], device: Device
) -> None:
    import torch

    module = graph(torch.float32)
    made = load(device)
    assert type(made).__module__.endswith("fix_functionalization")
    made(module.graph)
    assert wrapped(module) == 1


def test_operators_of_others_are_left_to_upstream(operators: ModuleType) -> None:
    """Only calls that are known to get a new tensor are unwrapped."""
    import torch
    from torch._higher_order_ops.auto_functionalize import auto_functionalized
    from vllm.sm12x.seams import functionalization

    graph = torch.fx.Graph()
    known = torch.ops.vllm.deepseek_v4_fp8_einsum.default
    calls = [
        graph.call_function(auto_functionalized, (operator,))
        for operator in (known, torch.ops.aten.add_.Tensor)
    ]
    assert [functionalization.is_ours(call) for call in calls] == [True, False]
    assert functionalization.by_name(known) == (
        {1: "out"},
        ("a", "a_scale", "b", "b_scale", "out", "equation", "recipe"),
    )


def test_torchs_cache_knows_the_pass_by_its_source(
    load: Callable[..., Any], pristine: Path
) -> None:
    assert load().uuid() != load(SM120, pristine).uuid()
