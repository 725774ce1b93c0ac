# SPDX-License-Identifier: Apache-2.0
"""What --arch means for each device, and which requests are refused."""

from __future__ import annotations

import pytest
from packaging.version import Version

from recipe.gpu.arch import Verdict, parse, plan, serves, supported
from recipe.ground.errors import ConfigError, UsageError
from tests.recipe import small
from tests.recipe.world import World

CMAKE = small.CMAKE.decode()


def verdicts(asked: str, cuda: str) -> dict[str, Verdict]:
    return {
        d.capability: d.verdict for d in plan(parse(asked), CMAKE, cuda, Version("0.33.0")).devices
    }


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("12.0;12.1", ("12.0", "12.1")),
        ("12.0 12.1", ("12.0", "12.1")),
        (" 12.1,,12.0 ;", ("12.1", "12.0")),
        ("12.0f+PTX;12.0f+PTX", ("12.0f+PTX",)),
    ],
)
def test_a_list_may_be_written_as_torch_allows(text: str, read: tuple[str, ...]) -> None:
    assert parse(text) == read


@pytest.mark.parametrize(
    "text", ["", ";", "12", "12.2", "sm_120", "12.0x", "9.0;13.0", "Blackwell"]
)
def test_an_unknown_architecture_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert "12.0" in caught.value.means
    assert caught.value.next.startswith("python build.py --arch '12.0;12.1'")


def test_a_list_without_our_devices_is_refused() -> None:
    with pytest.raises(UsageError, match="names no SM12x device"):
        parse("9.0a;10.0")


@pytest.mark.parametrize(
    ("cuda", "archs"),
    [
        ("13.4", "7.5;8.0;9.0;10.0;12.0"),
        ("13.0", "7.5;8.0;9.0;10.0;12.0"),
        ("12.9", "7.5;8.0;9.0;10.0;12.0;12.1"),
        ("12.8", "7.5;8.0;9.0;10.0;12.0;12.1"),
        ("12.6", "7.5;8.0;9.0"),
    ],
)
def test_the_list_of_the_toolkit_is_taken(cuda: str, archs: str) -> None:
    assert supported(CMAKE, cuda) == tuple(archs.split(";"))


def test_an_unknown_way_to_set_the_list_is_an_error() -> None:
    with pytest.raises(ConfigError, match="CUDA_SUPPORTED_ARCHS"):
        supported("set(SOMETHING_ELSE 12.0)\n", "13.0")


@pytest.mark.parametrize(
    ("asked", "cuda", "expected"),
    [
        ("12.0;12.1", "13.0", {"12.0": "native", "12.1": "same-major"}),
        ("12.1", "13.0", {"12.1": "same-major"}),
        ("12.0", "13.0", {"12.0": "native"}),
        ("12.0f", "13.0", {"12.0": "family", "12.1": "family"}),
        ("12.0;12.1", "12.8", {"12.0": "native", "12.1": "native"}),
        ("12.1a", "12.8", {"12.1": "native"}),
        ("12.0a", "13.0", {"12.0": "native"}),
        ("12.0a;12.1a", "13.0", {"12.0": "native", "12.1": "none"}),
        ("12.0", "12.6", {"12.0": "none"}),
    ],
)
def test_each_device_has_its_verdict(asked: str, cuda: str, expected: dict[str, str]) -> None:
    assert verdicts(asked, cuda) == expected


RESTORED = CMAKE + "include(cmake/sm12x_archs.cmake)\n"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("12.1a", {"12.1": "native"}),
        ("12.1f", {"12.1": "family"}),
        ("12.0;12.1", {"12.0": "native", "12.1": "same-major"}),
        # Lists that name 12.0f keep one of the two.
        ("12.0a;12.1a", {"12.0": "native", "12.1": "none"}),
        ("12.0;12.1a", {"12.0": "native", "12.1": "native"}),
    ],
)
def test_sm_121_itself_is_compiled_for_where_it_is_named(
    asked: str, expected: dict[str, str]
) -> None:
    made = plan(parse(asked), RESTORED, "13.0", Version("0.33.0"))
    assert {d.capability: d.verdict for d in made.devices} == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("12.0f", "family code, which both SM12x chips run"),
        # sm_121f doesn't run on 12.0.
        ("12.1f", "family code (12.1f), which 12.1 and later chips of its family run"),
    ],
)
def test_family_code_is_said_to_run_where_it_does(asked: str, said: str) -> None:
    made = plan(parse(asked), RESTORED, "13.0", Version("0.33.0"))
    assert all(d.why.endswith(f" of {asked}: {said}") for d in made.devices)
    assert (serves(asked, "12.0") == Verdict.FAMILY) == ("both" in said)


def test_a_request_for_ptx_is_said_to_be_dropped() -> None:
    made = plan(parse("12.0+PTX;12.1"), CMAKE, "13.0", Version("0.33.0"))
    assert made.compiled == ("12.0",)
    assert all("; +PTX is dropped: upstream's CMake makes PTX" in d.why for d in made.devices)
    assert "PTX" not in plan(parse("12.0"), CMAKE, "13.0", Version("0.33.0")).devices[0].why
    with pytest.raises(UsageError) as caught:
        parse("12.7")
    assert "if wanted" not in caught.value.means


def test_code_for_sm_121_that_would_trap_is_refused() -> None:
    with pytest.raises(UsageError, match="device trap") as stopped:
        plan(("12.1a",), RESTORED, "13.0", Version("0.21.0"))
    assert stopped.value.next.startswith("python build.py --arch 12.1 ")
    assert plan(("12.1",), RESTORED, "13.0", Version("0.21.0")).compiled == ("12.0",)


def test_the_plan_names_the_rule_behind_each_verdict(world: World) -> None:
    devices = world.good("plan", "--arch", "12.0;12.1", "--json").document["devices"]
    assert devices["12.1"]["verdict"] == "same-major"
    assert "CUDA 13.0 keeps 12.0 of 12.0;12.1" in devices["12.1"]["why"]


def test_a_list_that_leaves_gb10_without_code_is_refused(world: World) -> None:
    done = world.run("build", "--arch", "12.0a;12.1a", "--no-test", "--out", str(world.out))
    assert done.status == 2
    assert "gives 12.1 (DGX Spark GB10) no code it can run" in done.err
    assert done.next == "python build.py --arch '12.0;12.1' ..."
    assert not world.out.exists()


def test_an_unknown_architecture_ends_the_command_with_2(world: World) -> None:
    done = world.run("plan", "--arch", "12.7")
    assert done.status == 2
    assert "no such architecture: 12.7" in done.err
    assert done.next
    assert world.index.asked == []
