# SPDX-License-Identifier: Apache-2.0
"""A lifted DeepGEMM is used only if it takes every call that the release makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from recipe.bases.releases import Base, InnerPin
from recipe.compile.deepgemm import (
    COMPONENT,
    Known,
    argument,
    as_json,
    as_lines,
    check,
    check_usable,
    describe,
    load_facts,
    settled,
)
from recipe.compile.deepgemm_uses import WRAPPER, Use, uses_in
from recipe.ground.errors import ConfigError
from tests.recipe.inners import Inner

WRAPPER_TEXT = """
def _import_deep_gemm():
    return None

def _apply_pdl(mod):
    set_pdl_fn = getattr(mod, "set_pdl", None)
    name = getattr(mod, "__name__", "")
    set_pdl_fn(True)

def _lazy_init():
    _dg = _import_deep_gemm()
    _gemm_impl = getattr(_dg, "gemm", None)
    _masked_impl = getattr(_dg, "masked", None) or getattr(_dg, "old_masked", None)
    _logits_impl = getattr(
        _dg, "logits", None
    )

def gemm(*args, **kwargs):
    if "own" in kwargs:
        del kwargs["own"]
    return _gemm_impl(*args, cast=True, **kwargs)

def logits(q, k):
    return _logits_impl(q, k, clean=False)

def masked(x):
    return _masked_impl(x)

def get_num_sms():
    dg = _import_deep_gemm()
    return dg.get_num_sms()
"""
CALLER_TEXT = """
from vllm.utils.deep_gemm import gemm as fast
from vllm.utils.deep_gemm import _import_deep_gemm

def run(a, b, rest):
    fast(a, b, own=1)
    fast(*rest)
    deep_gemm = _import_deep_gemm()
    deep_gemm.mega(a, b, mode="x")
    return deep_gemm.Buffer
"""
UNRELATED = "deep_gemm = 1\ngemm(1, 2, 3, 4, 5)\n"


def uses() -> tuple[Use, ...]:
    files = {WRAPPER: WRAPPER_TEXT, "vllm/a.py": CALLER_TEXT, "vllm/b.py": UNRELATED}
    return uses_in(files, files.__getitem__)


def known(functions: Mapping[str, str], pin: str = "new", sm120: tuple[str, ...] = ()) -> Known:
    split = {
        name: tuple(argument(one) for one in text.split("; ") if one)
        for name, text in functions.items()
    }
    return Known(pin=pin, sm120=sm120, functions=split)


FITS = {
    "gemm": "a: Tensor; b: Tensor; cast: bool =",
    "masked": "x",
    "logits": "q; k; clean =",
    "set_pdl": "arg0: bool",
    "get_num_sms": "",
    "mega": "a; b; mode =",
    "Buffer": "*",
}


def test_every_name_and_call_is_read() -> None:
    found = {(use.names, use.positional, use.keywords) for use in uses()}
    assert found >= {
        (("gemm",), None, ()),
        (("gemm",), 2, ("cast",)),
        (("gemm",), 0, ("cast",)),
        (("masked", "old_masked"), 1, ()),
        (("logits",), 2, ("clean",)),
        (("set_pdl",), 1, ()),
        (("get_num_sms",), 0, ()),
        (("mega",), 2, ("mode",)),
        (("Buffer",), None, ()),
    }
    assert not [use for use in uses() if use.where.startswith("vllm/b.py")]


def test_what_fits_has_no_problem() -> None:
    assert check(uses(), known(FITS), None) == ()
    assert check(uses(), known(FITS), known(FITS)) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gemm": "cast: bool ="}, "vllm/a.py:6 calls gemm: 2 arguments by position"),
        ({"gemm": "a: Tensor; b: Tensor"}, "it takes no cast"),
        ({"gemm": "a: Tensor; cast: bool; b: Tensor"}, "cast is given by position, too"),
        ({"logits": "q; k; lengths; clean ="}, "it needs lengths"),
        ({"gemm": "b: Tensor; a: Tensor; cast: bool ="}, "b stands where a was"),
        ({"gemm": "a: tuple[Tensor, Tensor]; b: Tensor; cast ="}, "a is tuple[Tensor, Tensor]"),
        ({"logits": ""}, "calls logits: 2 arguments by position, it takes 0"),
    ],
)
def test_a_call_that_would_fail_is_named_with_its_line(changed: dict[str, str], said: str) -> None:
    problems = check(uses(), known(FITS | changed), known(FITS))
    assert any(said in problem for problem in problems), problems


def test_a_name_that_is_gone_is_a_problem() -> None:
    without = {name: text for name, text in FITS.items() if name != "logits"}
    assert any("takes logits" in one for one in check(uses(), known(without), known(FITS)))


def test_a_name_that_was_never_there_is_none() -> None:
    without = {name: text for name, text in FITS.items() if name != "mega"}
    assert check(uses(), known(without), known(without)) == ()


def test_either_of_two_names_will_do() -> None:
    renamed = {name: text for name, text in FITS.items() if name != "masked"}
    assert check(uses(), known({**renamed, "old_masked": "x"}), known(FITS)) == ()


def test_a_call_that_upstreams_own_refuses_is_not_blamed_on_the_lift() -> None:
    broken = {**FITS, "gemm": "a: Tensor"}
    assert check(uses(), known(broken), known(broken)) == ()


def lifted(inner: Inner) -> Base:
    base = inner.base
    pins = (
        InnerPin(name="deepgemm", repository="https://x.example/d.git", pin="old"),
        *base.inner,
    )
    lift = InnerPin(name="deepgemm", repository="https://x.example/d.git", pin="new")
    return replace(base, inner=pins, lifted=(lift,))


def test_the_published_one_is_carried_until_it_is_compiled(inner: Inner) -> None:
    facts = {"old": known(FITS, "old"), "new": known(FITS, "new", ("impls/sm120.cuh",))}
    one = describe(lifted(inner), uses(), facts)
    text = "\n".join(as_lines(one))
    assert "old has no kernels for 12.x" in text
    assert f"compiled from source ({COMPONENT}) it is new" in text
    assert "--sources deepgemm=PATH" in text
    assert as_json(one)["sm12x"] is False
    compiled = settled(one, [COMPONENT])
    assert as_lines(compiled) == [
        "deepgemm   new has kernels for 12.x, compiled when they are first used"
    ]
    assert settled(one, ["_moe_C"]) == one
    text = "\n".join(as_lines(settled(one, [], [], "no compiler")))
    assert "the published one is kept: no compiler" in text
    assert "--sources" not in text
    perhaps = settled(one, [], [COMPONENT])
    text = "\n".join(as_lines(perhaps))
    assert "old has no kernels for 12.x" in text
    assert "if its source can be fetched, new is compiled; else the published one is kept" in text
    assert (as_json(perhaps)["sm12x"], as_json(perhaps)["compiled_if_fetched"]) == (False, True)


def test_a_source_at_hand_is_not_asked_for(inner: Inner) -> None:
    facts = {"old": known(FITS, "old"), "new": known(FITS, "new", ("x",))}
    text = "\n".join(as_lines(describe(lifted(inner), uses(), facts, at_hand=True)))
    assert "--sources" not in text


def test_what_cannot_be_used_or_told_is_not_compiled(inner: Inner) -> None:
    broken = {"old": known(FITS, "old"), "new": known({**FITS, "gemm": "a"}, "new", ("x",))}
    with pytest.raises(ConfigError, match="2 arguments by position"):
        check_usable(describe(lifted(inner), uses(), broken))
    unknown = {"old": known(FITS, "old")}
    with pytest.raises(ConfigError, match="isn't known"):
        check_usable(describe(lifted(inner), uses(), unknown))
    assert "isn't known" in "\n".join(as_lines(describe(lifted(inner), uses(), unknown)))
    check_usable(describe(replace(lifted(inner), lifted=()), (), {}))


def test_the_committed_facts_are_whole() -> None:
    facts = load_facts()
    assert len(facts) == 7
    for one in facts.values():
        assert {"fp8_gemm_nt", "fp8_fp4_mqa_logits", "tf32_hc_prenorm_gemm"} <= {*one.functions}
