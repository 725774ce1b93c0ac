# SPDX-License-Identifier: Apache-2.0
"""What makes a component stale, and which code is good enough for a device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipe.compile.configure import Build, Step
from recipe.compile.native.choice import Choice, Kind
from recipe.compile.native.settle import Evidence, candidates, settle
from recipe.compile.stale import (
    RUNS,
    Reason,
    best,
    changed,
    difference,
    enough,
    listed,
    merged,
    unserved,
)
from recipe.gpu.arch import Verdict
from recipe.gpu.expected import REACH
from recipe.wheel.components import Action, Component

ONE = Step(source="tree/a.cu", command="nvcc -gencode arch=compute_120f,code=sm_120f -c tree/a.cu")
TWO = Step(source="tree/b.cu", command="nvcc -gencode arch=compute_80,code=sm_80 -c tree/b.cu")
BUILD = Build(name="_C", steps=(ONE, TWO), link="c++ a.o b.o", files={"tree/a.cu": "1"})
REUSED = Component(name="_C", files=(), action=Action.REUSE, why="published")


def test_the_same_answer_of_cmake_is_not_stale() -> None:
    assert difference(BUILD, BUILD) == ""
    assert changed({"_C": BUILD}, {"_C": BUILD}) == []


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (replace(BUILD, steps=(ONE,)), "the series drops 1 source (b.cu)"),
        (
            replace(BUILD, steps=(ONE, TWO, replace(TWO, source="tree/c.cu"))),
            "the series adds 1 source (c.cu)",
        ),
        (
            replace(BUILD, steps=(ONE, replace(TWO, command=ONE.command))),
            "the series compiles 1 sources for other targets (sm_80 to sm_120f)",
        ),
        (
            replace(BUILD, steps=(ONE, replace(TWO, command=TWO.command + " -O1"))),
            "the series has other flags for 1 source (b.cu)",
        ),
        (replace(BUILD, files={"tree/a.cu": "2"}), "the series changes 1 file (a.cu)"),
        (
            replace(BUILD, files={"tree/a.cu": "1", "tree/inc/new.h": "3"}),
            "the series takes in 1 other file (new.h)",
        ),
        (replace(BUILD, files={}), "the series no longer takes in 1 file (a.cu)"),
        (
            replace(BUILD, files={"inc/first/a.h": "1"}),
            "the series takes in 1 other file (a.h), no longer takes in 1 file (a.cu)",
        ),
        (
            replace(
                BUILD,
                steps=(ONE, TWO, replace(TWO, source="c.cu")),
                files={**BUILD.files, "c.cu": ""},
            ),
            "the series adds 1 source (c.cu)",
        ),
        (replace(BUILD, link="c++ a.o b.o -lm"), "the series links it otherwise"),
    ],
)
def test_each_kind_of_difference_is_named(new: Build, why: str) -> None:
    assert difference(BUILD, new) == why


def test_all_that_makes_a_component_stale_is_said() -> None:
    one, two = (Reason(component="_C", why=why) for why in ("first", "second"))
    other = Reason(component="_moe_C", why="third")
    both = Reason(component="_C", why="first and second")
    assert merged([one, other, two]) == [both, other]


def test_a_component_of_one_tree_alone_is_stale() -> None:
    assert [r.why for r in changed({}, {"_C": BUILD})] == ["the series adds it"]
    assert [r.why for r in changed({"_C": BUILD}, {})] == ["the series takes it away"]


@pytest.mark.parametrize(
    ("target", "arch"),
    [("sm_120f", "12.0f"), ("sm_80", "8.0"), ("sm_103a", "10.3a"), ("compute_80", "")],
)
def test_a_target_of_nvcc_is_written_as_in_a_list(target: str, arch: str) -> None:
    assert listed(target) == arch


def test_the_best_of_the_sources_counts_for_a_device() -> None:
    assert best(BUILD, "12.1") == Verdict.FAMILY
    assert best(replace(BUILD, steps=(TWO,)), "12.1") == Verdict.NONE


@pytest.mark.parametrize(
    ("asked", "device", "good"),
    [
        (("12.0", "12.1"), "12.1", RUNS),
        (("12.1a",), "12.1", {Verdict.NATIVE}),
        (("12.0",), "12.1", set()),
        (("12.0f",), "12.1", RUNS),
    ],
)
def test_a_device_asked_for_by_its_own_number_wants_its_own_code(
    asked: tuple[str, ...], device: str, good: set[Verdict]
) -> None:
    assert enough(asked, device) == good


def test_published_code_that_no_asked_device_runs_is_stale_where_a_compile_helps() -> None:
    none = {"_C": {"12.0": Verdict.NONE, "12.1": Verdict.NONE}}
    (reason,) = unserved({"_C": BUILD}, none, ("12.0", "12.1"))
    assert reason == Reason(
        component="_C", why="the published one is none on 12.0, a compile gives family code"
    )
    helpless = replace(BUILD, steps=(TWO,))
    assert unserved({"_C": helpless}, none, ("12.1",)) == []
    served = {"_C": {"12.0": Verdict.NATIVE, "12.1": Verdict.SAME_MAJOR}}
    assert unserved({"_C": BUILD}, served, ("12.0", "12.1")) == []
    by_ptx = {"_C": {"12.0": Verdict.PTX, "12.1": Verdict.PTX}}
    assert unserved({"_C": BUILD}, by_ptx, ("12.1",)) == []
    at_run_time = {"_C": {"12.0": Verdict.AT_RUN_TIME, "12.1": Verdict.AT_RUN_TIME}}
    assert unserved({"_C": BUILD}, at_run_time, ("12.1",)) == []


def test_what_is_made_for_other_devices_is_no_candidate() -> None:
    name = sorted(REACH)[0]
    published = {
        name: {"12.0": Verdict.NONE, "12.1": Verdict.NONE},
        "_qutlass_C": {"12.0": Verdict.NONE, "12.1": Verdict.NONE},
        "spinloop": {"12.0": Verdict.NO_GPU_CODE, "12.1": Verdict.NO_GPU_CODE},
    }
    assert candidates((REUSED,), published, ("12.1",)) == ("_qutlass_C",)


AUTO = Choice(kind=Kind.AUTO)
REASONS = [Reason(component="_C", why="the series changes 1 file (a.cu)")]


def test_a_stale_component_whose_source_is_missing_stays_and_says_so() -> None:
    missing = Evidence(reasons=REASONS, kept={"_C": "cutlass is missing"})
    (found,) = settle(AUTO, (REUSED,), missing).components
    assert found.action == Action.STALE
    assert found.why.endswith("this wheel does not contain that: cutlass is missing")
    assert settle(AUTO, (REUSED,), Evidence(reasons=REASONS)).certain == ("_C",)


def test_a_component_whose_source_must_be_fetched_is_not_certain() -> None:
    hoped = Evidence(reasons=REASONS, unfetched={"_C": "cutlass (x at v1)"})
    settled = settle(AUTO, (REUSED,), hoped)
    assert (settled.rebuild, settled.unfetched, settled.certain) == (("_C",), ("_C",), ())
    assert "if cutlass (x at v1) can be fetched" in settled.components[0].why


def test_unmeasured_components_are_as_the_patches_declare() -> None:
    stale = replace(REUSED, action=Action.STALE, why="marlin changes its compile")
    settled = settle(AUTO, (stale,), Evidence())
    assert settled.components == (stale,)
    assert not settled.measured


def test_what_there_is_still_to_ask_is_not_measured() -> None:
    assert settle(AUTO, (REUSED,), Evidence(reasons=REASONS)).measured
    assert not settle(AUTO, (REUSED,), Evidence(reasons=REASONS, sure=False)).measured
