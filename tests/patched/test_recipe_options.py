# SPDX-License-Identifier: Apache-2.0
"""Every recipe is right for the parser, the tables and the classes of each release it names."""

import importlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from packaging.version import Version
from vllm.sm12x.recipes import command
from vllm.sm12x.recipes.recipe import Recipe, every

RECIPES = every()
# Not vLLM's: they are read by NCCL, Gloo and Ray, which aren't installed where the tests run.
OTHERS = {
    "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE",
    "RAY_CGRAPH_get_timeout",
}  # fmt: skip


@pytest.fixture(params=RECIPES, ids=lambda one: one.name)
def recipe(request: pytest.FixtureRequest, base: Version) -> Recipe:
    found: Recipe = request.param
    if not found.bases.has(base.release):
        pytest.skip(f"the recipe is for {found.bases.text}")
    return found


@pytest.fixture(scope="module")
def arguments(base: Version) -> Any:
    """The module that knows the server's options, wherever the release has it."""
    try:
        return importlib.import_module("vllm.entrypoints.common.cli_args")
    except ModuleNotFoundError:
        return importlib.import_module("vllm.entrypoints.openai.cli_args")


@pytest.fixture(scope="module")
def parser(arguments: Any) -> Any:
    """What `vllm serve` makes of its words, without the server around it."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    top = FlexibleArgumentParser(prog="vllm")
    arguments.make_arg_parser(top.add_subparsers(dest="subparser").add_parser("serve"))
    return top


def serving(recipe: Recipe, base: Version) -> list[list[str]]:
    """The words of each `vllm serve` that the recipe prints."""
    lines = command.commands(recipe, base.release)
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words[:2] == ["vllm", "serve"]]


def parsed(recipe: Recipe, base: Version, parser: Any, arguments: Any) -> list[Any]:
    found = []
    for words in serving(recipe, base):
        options = parser.parse_args(words)
        # The configuration may name the model; the command's own entry hands it on so.
        options.model = getattr(options, "model_tag", None) or options.model
        arguments.validate_parsed_serve_args(options)
        found.append(options)
    return found


def body(recipe: Recipe) -> dict[str, Any]:
    found = yaml.safe_load(recipe.path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_each_option_is_one_of_the_parser_and_takes_effect(
    recipe: Recipe, base: Version, parser: Any, arguments: Any
) -> None:
    known = parser._subparsers._group_actions[0].choices["serve"]._option_string_actions
    every_line = parsed(recipe, base, parser, arguments)
    assert every_line
    for name, value in body(recipe).items():
        assert f"--{name}" in known, name
        for options in every_line:
            taken = getattr(options, known[f"--{name}"].dest)
            if isinstance(value, dict):
                assert all(field(taken, key) == one for key, one in value.items()), (name, taken)
            else:
                assert taken == value, name
    assert {options.model for options in every_line} == {recipe.model}


def field(taken: Any, key: str) -> Any:
    return taken[key] if isinstance(taken, dict) else getattr(taken, key)


def test_what_a_release_alone_knows_is_given_to_it_alone(
    recipe: Recipe, base: Version, parser: Any, arguments: Any
) -> None:
    """`use_fp4_indexer_cache` has become `indexer_kv_dtype`; SM12x has FP8 of either."""
    from vllm.config.attention import AttentionConfig

    fields = AttentionConfig.__dataclass_fields__
    for words in serving(recipe, base):
        for word in words:
            if word.startswith("--attention-config."):
                assert word.partition(".")[2] in fields, word
    for options in parsed(recipe, base, parser, arguments):
        taken = options.attention_config
        if "indexer_kv_dtype" in fields and recipe.options:
            assert field(taken, "indexer_kv_dtype") == "fp8"
        elif recipe.options:
            assert field(taken, "use_fp4_indexer_cache") is False


def test_values_are_ones_that_the_release_knows(recipe: Recipe, base: Version) -> None:
    from vllm.config.cache import CacheDType
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    said = body(recipe)
    assert said.get("kv-cache-dtype", "auto") in get_args(CacheDType)
    if "tool-call-parser" in said:
        assert said["tool-call-parser"] in ToolParserManager.list_registered()
    if "reasoning-parser" in said:
        assert said["reasoning-parser"] in ReasoningParserManager.list_registered()


def test_each_variable_is_one_of_the_table(recipe: Recipe, base: Version) -> None:
    from vllm.envs import environment_variables

    for variable in recipe.variables:
        if variable.name.startswith("VLLM_"):
            # What is gone is taken out, what is set is known.
            known = variable.name in environment_variables
            assert known is (variable.value is not None), variable.name
        else:
            assert variable.name in OTHERS, variable.name


def test_ranks_fill_the_devices(recipe: Recipe, base: Version) -> None:
    said = body(recipe)
    assert said.get("tensor-parallel-size", 1) == recipe.count
    assert said.get("nnodes", 1) == (1 if recipe.ray else recipe.nodes)
    assert len(serving(recipe, base)) == (1 if recipe.ray else recipe.nodes)


def test_what_needs_no_model_is_configured_on_such_a_device(
    recipe: Recipe, base: Version, parser: Any, arguments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caches and parallelism, by vLLM's own classes. A whole configuration asks for the model's."""
    import devices
    from vllm.config import CacheConfig, ParallelConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    devices.use(devices.Device("cuda", recipe.capability), monkeypatch)
    for options in parsed(recipe, base, parser, arguments):
        made = AsyncEngineArgs.from_cli_args(options)
        sizes = {} if made.block_size is None else {"block_size": made.block_size}
        cache = CacheConfig(
            cache_dtype=made.kv_cache_dtype,
            gpu_memory_utilization=made.gpu_memory_utilization,
            **sizes,
        )
        parallel = ParallelConfig(
            tensor_parallel_size=made.tensor_parallel_size,
            decode_context_parallel_size=made.decode_context_parallel_size,
            enable_expert_parallel=made.enable_expert_parallel,
            nnodes=made.nnodes,
            node_rank=made.node_rank,
            # Ray isn't installed here, and its executor is imported as the class is made.
            distributed_executor_backend="mp",
        )
        assert parallel.world_size == recipe.count
        assert cache.cache_dtype == body(recipe).get("kv-cache-dtype", "auto")


def test_a_renamed_option_would_be_seen(
    base: Version, parser: Any, arguments: Any, tmp_path: Path
) -> None:
    first = RECIPES[0]
    fits = next(one for one in RECIPES if one.bases.has(base.release))
    text = fits.path.read_text(encoding="utf-8")
    renamed = tmp_path / first.path.name
    renamed.write_text(text.replace("max-model-len", "max-model-length"), encoding="utf-8")
    with pytest.raises(SystemExit):
        parsed(replace(fits, path=renamed), base, parser, arguments)
