# SPDX-License-Identifier: Apache-2.0
"""The bill of materials is one that CycloneDX's own validator takes, with every patch in it."""

from __future__ import annotations

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from recipe.bases.releases import DEFAULT_ARCH, load_bases
from recipe.build.plan import make_plan
from recipe.ground.project import open_project
from recipe.wheel.sbom import sbom


@pytest.mark.parametrize("tag", ["v0.20.2", "v0.33.0"])
def test_the_bill_of_materials_is_valid_and_lists_every_patch(tag: str) -> None:
    project = open_project()
    bases = load_bases(project.bases_file)
    plan = make_plan(
        project,
        bases,
        bases.find(tag),
        arch_list=DEFAULT_ARCH,
        platform="x86_64",
        source="auto",
        offline=False,
    )
    text = sbom(plan).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    pedigree = json.loads(text)["metadata"]["component"]["pedigree"]
    texts = [patch["diff"]["text"]["content"] for patch in pedigree["patches"]]
    assert texts == [patch.content.decode() for patch in plan.series.patches]
    hashes = [ancestor["hashes"][0]["content"] for ancestor in pedigree["ancestors"]]
    assert hashes == [plan.base.sdist.sha256, plan.published.sha256]
    assert sbom(plan).decode() == text
