# SPDX-License-Identifier: Apache-2.0
"""Recipes are read by their heads, listed for the machine they fit, and printed as commands."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from vllm.sm12x.recipes import command
from vllm.sm12x.recipes.command import Machine, commands, fits
from vllm.sm12x.recipes.recipe import BadRecipe, every, read, read_range

RECIPES = {recipe.name: recipe for recipe in every()}
SPARK = Machine(count=1, capability=(12, 1), release=(0, 33, 0))
PRO = Machine(count=1, capability=(12, 0), release=(0, 33, 0))


def test_the_models_that_people_serve_are_there() -> None:
    named = " ".join(recipe.model for recipe in RECIPES.values())
    for part in ("V4-Flash", "V4.1-Flash", "V4-Pro", "V3.2", "GLM-5.2", "GLM-5.3-Flash",
                 "Qwen3.8-Flash-Next", "gpt-oss-120b", "gemma-4", "Llama-4-Scout"):  # fmt: skip
        assert part in named
    for model in ("deepseek-v4-flash", "deepseek-v4.1-flash"):
        for count in (2, 4):
            for device in ("gb10", "rtx-pro-6000"):
                assert f"{model}-{count}x-{device}" in RECIPES


def test_none_claims_what_nobody_measured() -> None:
    for recipe in RECIPES.values():
        assert recipe.measured == "nobody with this wheel"
        text = recipe.path.read_text(encoding="utf-8")
        said = [line for line in text.splitlines() if "tok/s" in line]
        assert all(line.startswith("#: reported: ") for line in said)


@pytest.mark.parametrize(
    ("machine", "name", "there"),
    [
        (SPARK, "deepseek-v4-flash-2x-gb10", True),
        (replace(SPARK, release=(0, 29, 0)), "deepseek-v4.1-flash-2x-gb10", False),
        (PRO, "deepseek-v4-flash-2x-gb10", False),
        (PRO, "deepseek-v4-flash-2x-rtx-pro-6000", False),
        (replace(PRO, count=4), "deepseek-v4-flash-2x-rtx-pro-6000", True),
        (Machine(count=None, capability=None, release=None), "glm-5.2-4x-rtx-pro-6000", True),
    ],
)  # fmt: skip
def test_a_recipe_is_listed_where_it_fits(machine: Machine, name: str, there: bool) -> None:
    assert fits(RECIPES[name], machine) is there


def test_two_machines_get_a_line_each_and_one_that_answers() -> None:
    lines = commands(RECIPES["deepseek-v4-flash-2x-gb10"], (0, 33, 0))
    serve = [line for line in lines if line.startswith("vllm serve --config ")]
    assert [("--headless" in line) for line in serve] == [False, True]
    assert "--node-rank 0 " in serve[0] and "--node-rank 1 " in serve[1]
    assert any(line.startswith("unset NCCL_IB_DISABLE") for line in lines)


def test_eight_machines_go_by_ray() -> None:
    lines = commands(RECIPES["deepseek-v4-pro-8x-gb10"], (0, 33, 0))
    assert any(line.startswith("export RAY_CGRAPH_get_timeout=900") for line in lines)
    assert any(line.startswith("unset VLLM_USE_RAY_COMPILED_DAG ") for line in lines)
    assert sum(line.startswith("ray start") for line in lines) == 2
    assert sum(line.startswith("vllm serve") for line in lines) == 1


def test_an_option_is_added_on_the_releases_that_have_it() -> None:
    recipe = RECIPES["deepseek-v4-flash-2x-gb10"]
    assert recipe.words((0, 23, 0)) == ["--attention-config.use_fp4_indexer_cache", "false"]
    assert recipe.words((0, 24, 0)) == ["--attention-config.indexer_kv_dtype", "fp8"]


@pytest.mark.parametrize("text", [">=0.2x", "0.33", ">=0.20,>=0.21", "", "<=0.30", ">=0.20 <0.30"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(BadRecipe, match="no range of releases"):
        read_range(text)


def test_a_range_ends_before_its_second_release() -> None:
    both = read_range(">=0.24,<0.30")
    assert [both.has(one) for one in ((0, 23, 9), (0, 24, 0), (0, 29, 9), (0, 30, 0))] == [
        False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#: model: ", "#: modell: "),
        ("#: nodes: 1\n", ""),
        ("#: devices: 1 x 12.1", "#: devices: one"),
        ("#: memory: ", "#:memory: "),
    ],
)
def test_a_head_that_cannot_be_read_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = RECIPES["gpt-oss-120b-1x-gb10"].path.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "a.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(BadRecipe, match=r"a\.yaml"):
        read(tmp_path / "a.yaml")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """With Python's own library alone, from the folder of the overlay."""
    overlay = str(Path(command.__file__).parents[3])
    return subprocess.run(
        [sys.executable, "-S", "-m", "vllm.sm12x.recipes", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": overlay},
        capture_output=True,
        text=True,
    )


def test_the_list_and_one_of_it_are_printed() -> None:
    listed = run("--devices", "1x12.1", "--release", "0.33.0")
    assert listed.returncode == 0, listed.stderr
    assert "gpt-oss-120b-1x-gb10" in listed.stdout and "rtx-pro" not in listed.stdout
    one = run("gpt-oss-120b-1x-gb10")
    file = RECIPES["gpt-oss-120b-1x-gb10"].path.name
    assert f"{file}\n" in one.stdout and "vllm.sm12x.soak" in one.stdout
    document = json.loads(run("--all", "--json").stdout)
    assert {row["name"] for row in document["recipes"]} == set(RECIPES)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no-such"], "there is no no-such"),
        (["--devices", "two"], "'two' are no devices; write them as 2x12.1"),
        (["--release", "newest"], "is no release; write it as 0.33.0"),
    ],
)
def test_what_is_not_there_ends_in_one_line(words: list[str], told: str) -> None:
    done = run(*words)
    assert done.returncode == 2 and told in done.stderr.splitlines()[-1]
