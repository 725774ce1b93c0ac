# SPDX-License-Identifier: Apache-2.0
"""The operators' signatures are FlashMLA's own, and importing them brings nothing along."""

import ast
import dataclasses
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from vllm.sm12x.ops import flash_mla
from vllm.sm12x.ops.flash_mla import flash_mla_sparse_fwd, flash_mla_with_kvcache


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
    for function in (flash_mla_with_kvcache, flash_mla_sparse_fwd):
        arguments = theirs[function.__name__]
        names = [argument.arg for argument in arguments.args]
        defaults = [ast.literal_eval(default) for default in arguments.defaults]
        ours = inspect.signature(function).parameters
        assert list(ours)[: len(names)] == names
        having = [p.default for p in ours.values() if p.default is not p.empty]
        assert having[: len(defaults)] == defaults
        # Arguments that this release doesn't have yet must be optional.
        assert len(having) - len(defaults) == len(ours) - len(names)


def fields(node: ast.ClassDef) -> list[str]:
    names = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
    return [name.id for name in names if isinstance(name, ast.Name)]


def test_the_scheduling_object_has_the_fields_of_the_one_that_the_wheel_brings() -> None:
    tree = ast.parse(installed_interface().read_text(encoding="utf-8"))
    theirs = next(n for n in ast.walk(tree) if getattr(n, "name", "") == "FlashMLASchedMeta")
    assert isinstance(theirs, ast.ClassDef)
    config = next(one for one in theirs.body if isinstance(one, ast.ClassDef))
    made, nothing = flash_mla.get_mla_metadata("any", more="arguments")
    assert nothing is None
    assert [field.name for field in dataclasses.fields(made)] == fields(theirs)
    ours = [field.name for field in dataclasses.fields(type(made).Config)]
    assert ours[: len(fields(config))] == fields(config)


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
