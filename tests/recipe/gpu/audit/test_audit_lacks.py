# SPDX-License-Identifier: Apache-2.0
"""`audit` of wheels of a pinned release that lack a component, a family, or a part of Marlin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.fatbins import AXPY, MARLIN_BF16, unit
from tests.recipe.gpu.audit.test_audit_verb import REQUIRED, audit, components, wheel
from tests.recipe.world import World


@pytest.mark.parametrize("family", REQUIRED)
def test_a_family_that_no_component_has_at_all_is_missed(
    world: World, tmp_path: Path, family: str
) -> None:
    path = wheel(world, unit(tmp_path, ("90", "120f")), lacks=family)
    done = audit(world, path, "--arch", "12.1")
    assert done.status == 6
    assert f"  {family} is in no component, and upstream's wheels of v9.1.0 have it\n" in done.out
    # On other devices upstream has them of other kinds.
    assert audit(world, path, "--arch", "9.0").status == 0


def test_a_component_of_the_release_that_isnt_there_is_missed(world: World, tmp_path: Path) -> None:
    bases = world.root / "bases.toml"
    listed = '["_C", "_deep_gemm_C", "_flashmla_C", "_moe_C"]'
    bases.write_text(bases.read_text(encoding="utf-8").replace('["_C"]', listed), encoding="utf-8")
    path = wheel(world, unit(tmp_path, ("90", "120f")))
    done = audit(world, path, "--arch", "12.1;9.0", "--json")
    assert done.status == 6
    assert done.document["absent"] == ["_deep_gemm_C", "_flashmla_C", "_moe_C"]
    assert done.document["devices"]["12.1"]["reasons"] == [
        "_moe_C is not in this wheel, and upstream's of v9.1.0 have it"
    ]
    assert len(done.document["devices"]["9.0"]["reasons"]) == 2
    text = audit(world, path).out
    assert "\nnot in this wheel: _deep_gemm_C _flashmla_C _moe_C\n" in text


def test_a_part_of_marlin_that_is_left_out_is_missed(world: World, tmp_path: Path) -> None:
    good = unit(tmp_path / "a", ("80", "120f"), kernels=(MARLIN_BF16, AXPY))
    # Turing has sources of its own beside those for all others.
    turing = unit(tmp_path / "b", ("75",), kernels=(MARLIN_BF16,))
    assert audit(world, wheel(world, good, turing)).status == 0

    ampere = unit(tmp_path / "c", ("75", "80"), kernels=(MARLIN_BF16, AXPY))
    path = wheel(world, good, turing, ampere)
    done = audit(world, path, "--arch", "12.1", "--json")
    assert done.status == 6
    (gap,) = components(done)["_C"]["devices"]["12.1"]["gaps"]
    assert gap == {
        "family": "Marlin (bf16 activations)",
        "state": "missing",
        "kernels": 1,
        "ready": 1,
        "targets": ["sm_75", "sm_80"],
        "fails": True,
    }
    (why,) = done.document["devices"]["12.1"]["reasons"]
    assert why == "_C: Marlin (bf16 activations) is in part compiled for sm_75 sm_80 only"
    assert "          1 Marlin (bf16 activations) (and 1 as machine code)  <-- not served" in (
        audit(world, path).out
    )
    assert audit(world, path, "--arch", "8.0").status == 0
