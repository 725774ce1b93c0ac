# SPDX-License-Identifier: Apache-2.0
"""What a V4 or V4.1 configuration says of its layers, in the forms that releases have it."""

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.sm12x.support.compression import is_v41, ratios_of, window_page

# As transformers has V4's: a kind for each layer and what a kind stands for; drafts aren't listed.
RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
KINDS = ["sliding_attention", *RATES]


def config(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"model_type": "deepseek_v4"} | fields))


@pytest.mark.parametrize(
    ("model_type", "listed", "expected"),
    [
        # In V4 a ratio of 1 is a window alone; in V4.1 it is a scope of all tokens.
        ("deepseek_v4", [0, 1, 2, 4, 128], (0, 0, 2, 4, 128)),
        ("deepseek_v41", [0, 1, 2, 4, 128], (0, 1, 2, 4, 128)),
    ],
)
def test_listed_ratios(model_type: str, listed: list[int], expected: tuple[int, ...]) -> None:
    assert ratios_of(config(model_type=model_type, compress_ratios=listed)) == expected


def test_listed_ratios_come_before_kinds() -> None:
    both = config(compress_ratios=[4], compress_rates=RATES, layer_types=KINDS)

    assert ratios_of(both) == (4,)


@pytest.mark.parametrize(
    ("drafts", "tail"),
    [({}, ()), ({"num_nextn_predict_layers": None}, ()), ({"num_nextn_predict_layers": 0}, ())]
    + [({"num_nextn_predict_layers": count}, (0,) * count) for count in (1, 2, 3)],
)
def test_kinds_of_layers_and_drafts_behind_them(
    drafts: dict[str, Any], tail: tuple[int, ...]
) -> None:
    hf = config(compress_rates=RATES, layer_types=[*KINDS, KINDS[1]], **drafts)

    assert ratios_of(hf) == (0, 4, 128, 4, *tail)


def test_a_kind_without_a_rate_is_a_window_alone_in_v41_too() -> None:
    hf = config(model_type="deepseek_v41", compress_rates=RATES, layer_types=KINDS)

    assert ratios_of(hf) == (0, 4, 128)


def test_a_model_without_such_layers_has_none() -> None:
    assert ratios_of(SimpleNamespace(model_type="deepseek_v32")) == ()
    assert ratios_of(SimpleNamespace(num_nextn_predict_layers=1)) == ()


@pytest.mark.parametrize(
    ("hf", "v41", "page"),
    [
        (config(model_type="deepseek_v41"), True, 32),
        (config(model_type="deepseek_v4"), False, 64),
        (config(model_type="deepseek_v5"), False, 64),
        (config(model_type=None), False, 64),
        (SimpleNamespace(), False, 64),
    ],
)
def test_the_page_of_windows_follows_from_the_model(hf: Any, v41: bool, page: int) -> None:
    assert is_v41(hf) is v41
    assert window_page(hf) == page
