# SPDX-License-Identifier: Apache-2.0
"""`audit`: what a wheel's devices get, what is missing, what differs, and wheels that are none."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recipe.gpu.arch import parse, read_list
from recipe.gpu.audit.findings import devices_of
from recipe.gpu.kernel_names import FP4_GEMM, MARLIN, MARLIN_MOE, SCALED_MM
from tests.recipe import small
from tests.recipe.fatbins import AXPY, MARLIN_BF16, shared_object, unit
from tests.recipe.world import Done, World

FP4 = "_ZN7cutlass13device_kernelI12nv_float4_tEEvv"


# A kernel of each family that upstream has for SM12x on every release.
REQUIRED = {
    MARLIN: "_ZN6marlin6MarlinILEEvv",
    MARLIN_MOE: "_ZN16marlin_moe_wna166MarlinILEEvv",
    SCALED_MM: "_ZN7cutlass13device_kernelI17enable_sm120_onlyEEvv",
    FP4_GEMM: FP4,
}
OTHERS = "_others_C"


@cache
def others_of(lacks: str = "") -> bytes:
    """A component with the required families but one."""
    names = [name for family, name in REQUIRED.items() if family != lacks]
    with tempfile.TemporaryDirectory() as folder:
        return shared_object(unit(Path(folder), ("80", "90", "120f"), kernels=names))


def wheel(
    world: World, *units: bytes, others: dict[str, bytes] | None = None, lacks: str = ""
) -> Path:
    """A wheel of the small release whose `_C` holds these units, and another the families that
    every wheel has to have, but for `lacks`."""
    path = world.root / "dist" / "vllm-9.1.0-cp38-abi3-manylinux_2_28_x86_64.whl"
    path.parent.mkdir(exist_ok=True)
    members = {f"vllm/{name}.abi3.so": code for name, code in (others or {}).items()}
    members[f"vllm/{OTHERS}.abi3.so"] = others_of(lacks)
    path.write_bytes(small.make_wheel(members, binary=shared_object(*units)))
    return path


def audit(world: World, path: Path, *args: str) -> Done:
    return world.run("audit", str(path), *args)


def components(done: Done) -> dict[str, Any]:
    return {one["name"]: one for one in done.document["components"]}


def test_a_wheel_that_serves_both_chips(world: World, tmp_path: Path) -> None:
    fat = unit(tmp_path, ("80", "120f"), ("80",), kernels=(AXPY, MARLIN_BF16))
    done = audit(world, wheel(world, fat), "--json")
    assert done.status == 0, done.err
    document = done.document
    assert document["verdict"] == "served"
    assert document["arch"] == ["12.0", "12.1"]
    found = components(done)["_C"]
    assert found["sass"] == ["sm_80", "sm_120f"]
    assert found["ptx"] == ["sm_80"]
    assert found["images"] == {"sass": {"sm_80": 1, "sm_120f": 1}, "ptx": {"sm_80": 1}}
    assert found["verdict"] == {"12.0": "family", "12.1": "family"}
    assert found["devices"]["12.1"]["gaps"] == []
    assert found["devices"]["12.1"]["units"] == {"family": 1}
    text = audit(world, wheel(world, fat))
    assert "12.1 (DGX Spark GB10): served" in text.out
    assert "SASS  sm_80 1  sm_120f 1" in text.out


def test_marlin_from_ptx_counts_as_wrong(world: World, tmp_path: Path) -> None:
    """The driver compiles it without complaint, so only an audit can say it."""
    made = unit(tmp_path / "a", ("80", "120"), kernels=(AXPY,))
    marlin = unit(tmp_path / "b", ("80",), ("80",), kernels=(MARLIN_BF16,))
    done = audit(world, wheel(world, made, marlin), "--arch", "12.1", "--json")
    assert done.status == 6
    found = components(done)["_C"]["devices"]["12.1"]
    assert found["verdict"] == "same-major"
    assert not found["served"]
    assert found["units"] == {"same-major": 1, "ptx": 1}
    (gap,) = found["gaps"]
    assert gap["family"] == "Marlin (bf16 activations)"
    assert (gap["state"], gap["kernels"], gap["targets"]) == ("wrong", 1, ["sm_80"])
    assert done.document["devices"]["12.1"]["verdict"] == "not-served"
    assert "computes wrong results" in done.document["devices"]["12.1"]["reasons"][0]
    assert done.next == "python build.py build --base v9.1.0 --arch '12.1' --native auto"
    # On a device that PTX for sm_80 is right for, it is only PTX.
    assert audit(world, wheel(world, made, marlin), "--arch", "8.6").status == 0


def test_other_kernels_from_ptx_are_named_and_do_no_harm(world: World, tmp_path: Path) -> None:
    done = audit(world, wheel(world, unit(tmp_path, ("80",), ("80",))), "--json")
    assert done.status == 0, done.err
    (gap,) = components(done)["_C"]["devices"]["12.0"]["gaps"]
    assert (gap["family"], gap["state"]) == ("vllm::axpy", "ptx")


def test_code_for_one_chip_alone_doesnt_serve_the_other(world: World, tmp_path: Path) -> None:
    path = wheel(
        world,
        unit(tmp_path / "a", ("120f",), kernels=(AXPY,)),
        unit(tmp_path / "b", ("120a",), kernels=("_Z6narrowv",)),
    )
    assert audit(world, path, "--arch", "12.0").status == 0
    done = audit(world, path, "--arch", "12.1")
    assert done.status == 6
    assert "  _C: narrow is compiled for sm_120a only" in done.out


def test_a_family_that_upstream_has_for_sm12x_mustnt_be_left_out(
    world: World, tmp_path: Path
) -> None:
    other = unit(tmp_path / "a", ("100f", "90a"), kernels=(FP4,))
    mine = unit(tmp_path / "b", ("90a", "120f"), kernels=(AXPY,))
    done = audit(world, wheel(world, other, mine, lacks=FP4_GEMM))
    assert done.status == 6
    assert "_C: CUTLASS FP4 GEMM is compiled for sm_90a sm_100f only" in done.out
    # Another component may have it.
    there = {"_other_C": shared_object(unit(tmp_path / "c", ("120f",), kernels=(FP4,)))}
    assert audit(world, wheel(world, other, mine, others=there, lacks=FP4_GEMM)).status == 0


@pytest.mark.parametrize(
    ("made", "device", "said"),
    [
        ("120f", "12.1", "family code, which both SM12x chips run"),
        ("121f", "12.1", "family code (12.1f), which 12.1 and later chips of its family run"),
        ("100f", "10.3", "family code (10.0f), which 10.0 and later chips of its family run"),
    ],
)
def test_family_code_is_said_to_run_where_it_does(
    world: World, tmp_path: Path, made: str, device: str, said: str
) -> None:
    done = audit(world, wheel(world, unit(tmp_path, (made,))), "--arch", device, "--json")
    assert components(done)["_C"]["devices"][device]["why"] == said


def test_what_isnt_code_for_a_chip_asked_for_by_its_suffix_is_told(
    world: World, tmp_path: Path
) -> None:
    path = wheel(world, unit(tmp_path, ("121a",)))
    done = audit(world, path, "--arch", "12.1a")
    assert done.status == 0, done.err
    assert "12.1a was asked for, and what runs there is enough here" in done.out
    assert "without code for sm_121 itself: _others_C\n" in done.out
    document = audit(world, path, "--arch", "12.1", "--json").document
    assert document["devices"]["12.1"]["not_native"] == ["_others_C"]
    assert "itself" not in audit(world, path, "--arch", "12.1").out


def test_a_component_without_code_fails_unless_it_is_for_other_devices(
    world: World, tmp_path: Path
) -> None:
    mine = unit(tmp_path / "a", ("90a", "120f"))
    hopper = shared_object(unit(tmp_path / "b", ("90a",)))
    known = audit(world, wheel(world, mine, others={"_flashmla_C": hopper}), "--json")
    assert known.status == 0, known.err
    found = components(known)["_flashmla_C"]["devices"]["12.0"]
    assert (found["verdict"], found["why"]) == ("none", "FlashMLA is written for SM90 and SM100")

    unknown = audit(world, wheel(world, mine, others={"_qutlass_C": hopper}))
    assert unknown.status == 6
    assert "  _qutlass_C has no code it can run" in unknown.out
    # On a device it is written for, FlashMLA is missed like any other.
    blackwell = shared_object(unit(tmp_path / "c", ("100f",)))
    done = audit(world, wheel(world, mine, others={"_flashmla_C": blackwell}), "--arch", "9.0")
    assert done.status == 6
    assert "_flashmla_C has no code it can run" in done.out


def test_a_wheel_without_gpu_code_serves_no_device(world: World) -> None:
    path = world.root / "x.whl"
    metadata = small.METADATA.replace(b"Version: 9.1.0", b"Version: 9.2.0")  # no pinned one
    path.write_bytes(small.make_wheel(metadata=metadata))
    done = audit(world, path, "--json")
    assert done.status == 6
    assert done.document["devices"]["12.0"]["reasons"] == ["no component has code it can run"]
    assert components(done)["_C"]["verdict"]["12.0"] == "no-gpu-code"


@pytest.mark.parametrize(
    ("asked", "devices"),
    [
        ("12.1", ("12.1",)),
        ("12.0;12.1", ("12.0", "12.1")),
        ("12.0f", ("12.0", "12.1")),
        ("12.1a 9.0a 8.0+PTX", ("12.1", "9.0", "8.0")),
        ("10.0f", ("10.0",)),
    ],
)
def test_the_devices_that_a_list_means(asked: str, devices: tuple[str, ...]) -> None:
    assert devices_of(read_list(asked)) == devices
    if "12." in asked:
        assert read_list(asked) == parse(asked)


def upstream(world: World, *units: bytes) -> None:
    """Let the package index have a wheel of the release with these units."""
    others = {f"vllm/{OTHERS}.abi3.so": others_of()}
    content = small.make_wheel(others, binary=shared_object(*units))
    for machine, name in small.WHEELS.items():
        world.index.add("vllm", name, content)
        world.wheels[machine] = content
    text = small.bases_toml(world.sdist, world.wheels)
    (world.root / "bases.toml").write_text(text, encoding="utf-8")


def test_what_differs_from_upstreams_wheel(world: World, tmp_path: Path) -> None:
    plain = unit(tmp_path / "a", ("80", "120"), kernels=(AXPY,))
    upstream(world, plain, unit(tmp_path / "b", ("80",), ("80",), kernels=(MARLIN_BF16,)))
    mended = unit(tmp_path / "c", ("80", "120f"), ("80",), kernels=(MARLIN_BF16,))
    path = wheel(world, plain, mended, others={"_new": small.shared_object()})

    done = audit(world, path, "--arch", "12.1", "--against", "upstream", "--json")

    assert done.status == 0, done.err
    against = done.document["against"]
    assert against["wheel"] in small.WHEELS.values()
    ours, new, others = (one for one in against["components"])
    assert (ours["name"], ours["presence"], ours["same"]) == ("_C", "both", False)
    assert (ours["sass"], ours["ptx"]) == ({"sm_120f": 1}, {})
    assert ours["verdicts"] == {"12.1": {"there": "same-major", "here": "family"}}
    assert ours["families"]["12.1"] == [
        {"family": "Marlin (bf16 activations)", "there": {"ptx": 1}, "here": {"family": 1}}
    ]
    assert (new["name"], new["presence"]) == ("_new", "only-here")
    assert (others["name"], others["same"]) == (OTHERS, True)
    text = audit(world, path, "--against", "upstream", "--offline").out
    assert "      Marlin (bf16 activations): 1 ptx -> 1 family" in text
    # What was read of the published wheel is kept.
    assert len(list((world.cache / "gpu-code").iterdir())) == 1


def test_any_two_wheels_can_be_compared(world: World, tmp_path: Path) -> None:
    path = wheel(world, unit(tmp_path, ("120f",)))
    done = audit(world, path, "--against", str(path), "--json")
    assert done.status == 0, done.err
    assert [one["same"] for one in done.document["against"]["components"]] == [True, True]


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--arch", "13.7"), "no such architecture: 13.7"),
        (("--arch", ""), "nothing named"),
        (("--against", "gone.whl"), "gone.whl is not a file"),
    ],
)
def test_what_was_typed_wrongly_is_said_with_2(
    world: World, tmp_path: Path, args: tuple[str, ...], what: str
) -> None:
    done = audit(world, wheel(world, unit(tmp_path, ("120f",))), *args)
    assert done.status == 2
    assert what in done.err
    assert done.next


def test_a_file_that_isnt_there_is_said_with_2(world: World) -> None:
    done = audit(world, Path("gone.whl"))
    assert done.status == 2
    assert done.next == "python build.py audit dist/NAME.whl"


def test_a_wheel_of_no_pinned_release_has_no_upstream_to_compare_with(
    world: World, tmp_path: Path
) -> None:
    metadata = small.METADATA.replace(b"Version: 9.1.0", b"Version: 9.2.0")
    path = tmp_path / "x.whl"
    path.write_bytes(
        small.make_wheel(metadata=metadata, binary=shared_object(unit(tmp_path, ("120f",))))
    )
    assert audit(world, path).status == 0
    done = audit(world, path, "--against", "upstream")
    assert done.status == 2
    assert done.next == "python build.py bases add v9.2.0"
