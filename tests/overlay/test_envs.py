# SPDX-License-Identifier: Apache-2.0
import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm.sm12x import envs
from vllm.sm12x.envs import variable as variable_module
from vllm.sm12x.envs.values import gibibytes

SIZE = envs.EnvVar(
    name="VLLM_SM12X_TEST_SIZE",
    default=2.0,
    parser=gibibytes,
    meaning="Some size.",
    compile_factor=True,
    aliases=("VLLM_OLD_SIZE", "VLLM_OLDER_SIZE"),
)


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*envs.VARIABLES, *envs.CHANGED, SIZE):
        for name in (variable.name, *variable.aliases):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(variable_module, "_warned", set())


def test_unset_variables_have_their_documented_defaults() -> None:
    assert envs.get("VLLM_SM12X_PREFETCH") == "auto"
    assert envs.get("VLLM_SM12X_PREFETCH_MIN_GIB") == 50.0


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("0.5", 0.5), (" 12 ", 12.0)])
def test_a_size_is_read_from_the_environment_each_time(
    monkeypatch: pytest.MonkeyPatch, text: str, value: float
) -> None:
    monkeypatch.setenv("VLLM_SM12X_PREFETCH_MIN_GIB", text)
    assert envs.get("VLLM_SM12X_PREFETCH_MIN_GIB") == value
    monkeypatch.setenv("VLLM_SM12X_PREFETCH_MIN_GIB", "7")
    assert envs.get("VLLM_SM12X_PREFETCH_MIN_GIB") == 7.0


@pytest.mark.parametrize("text", ["AUTO", "1", "0"])
def test_a_choice_is_taken_in_any_case(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", text)
    assert envs.get("VLLM_SM12X_PREFETCH") == text.lower()


@pytest.mark.parametrize(
    ("name", "text", "default", "expected"),
    [
        ("VLLM_SM12X_PREFETCH", "yes", "auto", "auto, 1, 0"),
        ("VLLM_SM12X_PREFETCH_MIN_GIB", "many", 50.0, "size in GiB"),
        ("VLLM_SM12X_PREFETCH_MIN_GIB", "-1", 50.0, "size in GiB"),
        ("VLLM_SM12X_PREFETCH_MIN_GIB", "nan", 50.0, "size in GiB"),
        ("VLLM_SM12X_PREFETCH_MIN_GIB", "inf", 50.0, "size in GiB"),
        ("VLLM_SM12X_LOADING_WINDOW_GIB", "1e300", 1.0, "size in GiB"),
        ("VLLM_TRITON_MLA_SPARSE", "maybe", None, "1 or 0"),
        ("VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE", "0", 256, "from 1 on"),
        ("VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE", "1.5", 256, "from 1 on"),
        ("VLLM_TRITON_MLA_SPARSE_TOPK_CHUNK_SIZE", "-64", None, "from 1 on"),
        ("VLLM_TRITON_MLA_SPARSE_HEAD_BLOCK_SIZE", "8", None, "1, 2, 4, 16, 32"),
        ("VLLM_TRITON_MLA_SPARSE_DUMP", "2", False, "1 or 0"),
    ],
)
def test_an_invalid_value_gives_the_default_and_one_warning(
    monkeypatch: pytest.MonkeyPatch,
    log_of: Callable[[str], list[logging.LogRecord]],
    name: str,
    text: str,
    default: Any,
    expected: str,
) -> None:
    records = log_of(variable_module.logger.name)
    monkeypatch.setenv(name, text)
    assert [envs.get(name) for _ in range(3)] == [default] * 3
    (record,) = records
    assert record.levelno == logging.WARNING
    shown = {v.name: v.shown for v in envs.VARIABLES}[name] or str(default)
    for part in (name, repr(text), expected, shown):
        assert part in record.getMessage()


def test_each_invalid_variable_gets_its_own_warning(
    monkeypatch: pytest.MonkeyPatch, log_of: Callable[[str], list[logging.LogRecord]]
) -> None:
    records = log_of(variable_module.logger.name)
    checked = [v for v in envs.VARIABLES if v.parser is not str]
    for variable in checked:
        monkeypatch.setenv(variable.name, "nonsense")
        envs.get(variable.name)
    assert len(records) == len(checked)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("ON", True), ("0", False), ("no", False), ("", None)],
)
def test_a_flag_has_three_values(
    monkeypatch: pytest.MonkeyPatch, text: str, value: bool | None
) -> None:
    monkeypatch.setenv("VLLM_TRITON_MLA_SPARSE", text)
    assert envs.get("VLLM_TRITON_MLA_SPARSE") is value


@pytest.mark.parametrize(
    ("name", "alias", "texts", "values"),
    [
        (
            "VLLM_TRITON_MLA_SPARSE",
            "VLLM_SM120_REFERENCE_DEEPSEEK_V4_ATTENTION",
            ("1", "0"),
            (True, False),
        ),
        (
            "VLLM_TRITON_MLA_SPARSE_DUMP",
            "VLLM_SM120_DUMP_DEEPSEEK_V4_ATTENTION",
            ("1", "0"),
            (True, False),
        ),
        (
            "VLLM_TRITON_MLA_SPARSE_DUMP_PATH",
            "VLLM_SM120_ATTENTION_DUMP_PATH",
            ("/old.jsonl", "/new.jsonl"),
            ("/old.jsonl", "/new.jsonl"),
        ),
        (
            "VLLM_TRITON_MLA_SPARSE_TOPK_CHUNK_SIZE",
            "VLLM_SM120_REFERENCE_TOPK_CHUNK_SIZE",
            ("512", "96"),
            (512, 96),
        ),
        (
            "VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE",
            "VLLM_SM120_REFERENCE_QUERY_CHUNK_SIZE",
            ("64", "7"),
            (64, 7),
        ),
    ],
)
def test_older_names_are_read_where_the_new_one_is_unset(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    alias: str,
    texts: tuple[str, str],
    values: tuple[object, object],
) -> None:
    monkeypatch.setenv(alias, texts[0])
    assert envs.get(name) == values[0]
    monkeypatch.setenv(name, texts[1])
    assert envs.get(name) == values[1]


@pytest.mark.parametrize(
    ("texts", "origin", "name", "value"),
    [
        ({}, envs.Origin.DEFAULT, None, 2.0),
        ({"VLLM_SM12X_TEST_SIZE": "3"}, envs.Origin.NAME, "VLLM_SM12X_TEST_SIZE", 3.0),
        ({"VLLM_OLDER_SIZE": "4"}, envs.Origin.ALIAS, "VLLM_OLDER_SIZE", 4.0),
        ({"VLLM_OLD_SIZE": "x"}, envs.Origin.INVALID, "VLLM_OLD_SIZE", 2.0),
    ],
)
def test_a_reading_says_where_the_value_comes_from_and_warns_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
    log_of: Callable[[str], list[logging.LogRecord]],
    texts: dict[str, str],
    origin: envs.Origin,
    name: str | None,
    value: float,
) -> None:
    records = log_of(variable_module.logger.name)
    for variable, text in texts.items():
        monkeypatch.setenv(variable, text)
    reading = SIZE.read()
    assert (reading.origin, reading.name, reading.value) == (origin, name, value)
    assert bool(reading.problem) == (origin is envs.Origin.INVALID)
    assert records == []


def test_empty_text_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, log_of: Callable[[str], list[logging.LogRecord]]
) -> None:
    records = log_of(variable_module.logger.name)
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", " ")
    assert envs.get("VLLM_SM12X_PREFETCH") == "auto"
    assert records == []


def test_the_name_wins_over_its_aliases_and_they_over_each_other_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_OLDER_SIZE", "5")
    assert SIZE() == 5.0
    monkeypatch.setenv("VLLM_OLD_SIZE", "4")
    assert SIZE() == 4.0
    monkeypatch.setenv("VLLM_SM12X_TEST_SIZE", "3")
    assert SIZE() == 3.0


def test_an_invalid_name_does_not_fall_through_to_a_valid_alias(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_OLD_SIZE", "4")
    monkeypatch.setenv("VLLM_SM12X_TEST_SIZE", "wrong")
    assert SIZE() == 2.0


def test_a_name_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="VLLM_SM12X_NO_SUCH"):
        envs.get("VLLM_SM12X_NO_SUCH")


def test_registering_adds_names_and_aliases_that_read_the_same_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table: dict[str, Callable[[], Any]] = {"VLLM_PORT": lambda: 1}
    envs.register(table, [SIZE], [])
    assert set(table) == {"VLLM_PORT", SIZE.name, *SIZE.aliases}
    monkeypatch.setenv(SIZE.name, "9")
    assert {table[name]() for name in (SIZE.name, *SIZE.aliases)} == {9.0}


def test_a_name_that_somebody_else_owns_is_refused() -> None:
    table: dict[str, Callable[[], Any]] = {"VLLM_OLD_SIZE": lambda: 1}
    with pytest.raises(ValueError, match="VLLM_OLD_SIZE"):
        envs.register(table, [SIZE])


LOGITS = "VLLM_SPARSE_INDEXER_MAX_LOGITS_MB"


def platform(*, cuda: bool, major: int | None) -> types.ModuleType:
    """A stand-in for vllm.platforms."""
    capability = None if major is None else types.SimpleNamespace(major=major)
    module = types.ModuleType("vllm.platforms")
    module.current_platform = types.SimpleNamespace(  # type: ignore[attr-defined]
        is_cuda=lambda: cuda, get_device_capability=lambda: capability
    )
    return module


@pytest.mark.parametrize(
    ("cuda", "major", "text", "value"),
    [
        (True, 12, "", 256),
        (True, 12, "1024", 1024),
        (True, 12, "none", 256),
        (True, 9, "", 512),
        (True, 10, "", 512),
        (True, None, "", 512),
        (False, 12, "", 512),
        (False, None, "7", 7),
    ],
)
def test_the_indexers_logits_have_another_cap_on_sm12x_alone(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, major: int | None, text: str, value: int
) -> None:
    table: dict[str, Callable[[], Any]] = {LOGITS: lambda: int(os.getenv(LOGITS) or "512")}
    envs.register(table)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platform(cuda=cuda, major=major))
    monkeypatch.setenv(LOGITS, text)
    envs._is_sm12x.cache_clear()
    try:
        assert table[LOGITS]() == value
    finally:
        envs._is_sm12x.cache_clear()


def test_a_variable_that_upstream_has_not_got_is_not_brought_back() -> None:
    table: dict[str, Callable[[], Any]] = {}
    envs.register(table)
    assert LOGITS not in table


def test_the_description_names_every_variable_its_default_and_its_aliases() -> None:
    rows = envs.describe().splitlines()[2:]
    known = [*envs.VARIABLES, *envs.CHANGED]
    assert [row.split("`")[1] for row in rows] == [variable.name for variable in known]
    assert all(row.split("|")[2].strip() != "None" for row in rows)
    assert "| 50 |" in rows[1]
    assert "docs/loading.md" in rows[2]
    (row,) = envs.describe([SIZE]).splitlines()[2:]
    assert "VLLM_OLD_SIZE" in row
    assert "VLLM_OLDER_SIZE" in row


def test_importing_the_table_imports_nothing_of_vllm_or_torch() -> None:
    root = Path(envs.__file__).parents[3]
    code = (
        "import sys, types\n"
        "package = types.ModuleType('vllm')\n"
        f"package.__path__ = [{str(root / 'vllm')!r}]\n"
        "sys.modules['vllm'] = package\n"
        "import vllm.sm12x.envs\n"
        "names = {n for n in sys.modules if n.split('.')[0] in ('vllm', 'torch')}\n"
        "print(*sorted(names))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    ours = ["envs", "envs.values", "envs.variable"]
    assert result.stdout.split() == ["vllm", "vllm.sm12x", *(f"vllm.sm12x.{name}" for name in ours)]
