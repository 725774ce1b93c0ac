# SPDX-License-Identifier: Apache-2.0
"""The matrix of the real series: every header is what the trees say."""

from __future__ import annotations

from recipe.bases.releases import Bases
from tests.recipe.world import Checkout


def test_every_claim_of_the_headers_holds_in_the_trees(real: Checkout, bases: Bases) -> None:
    found = real.good("matrix", "--json").document

    assert found["bases"] == [base.tag for base in bases.releases]
    assert len(found["cells"]) == len(found["bases"]) * len(found["history"])
    assert {cell["state"] for cell in found["cells"]} <= {
        "applies",
        "upstreamed",
        "upstreamed-changed",
        "not-needed",
    }
    assert all(cell["evidence"] for cell in found["cells"])
    # Upstream merged two folders of Marlin sources there.
    assert found["history"]["marlin-fp8-sources"] == (
        "applies v0.20.0 to v0.21.0; upstreamed in v0.22.0 (changed again in v0.32.0)"
    )
