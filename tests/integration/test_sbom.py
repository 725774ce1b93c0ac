# SPDX-License-Identifier: Apache-2.0
"""The bill of materials is one that CycloneDX's own validator takes, with every patch in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from recipe.bases.releases import DEFAULT_ARCH, load_bases
from recipe.build.plan import make_plan
from recipe.ground.digest import sha256
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
    reused, compiled = {"vllm/_C.abi3.so": "0" * 64}, {"vllm/_moe_C.abi3.so": "f" * 64}
    tools = {"auditwheel": "6.5.0", "cuda": "13.0.88"}
    text = sbom(plan, reused, compiled, tools).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    pedigree = json.loads(text)["metadata"]["component"]["pedigree"]
    texts = [patch["diff"]["text"]["content"] for patch in pedigree["patches"]]
    assert texts == [patch.content.decode() for patch in plan.series.patches]
    hashes = [ancestor["hashes"][0]["content"] for ancestor in pedigree["ancestors"]]
    assert hashes == [plan.base.sdist.sha256, plan.published.sha256]
    found = {one["name"]: one["hashes"][0]["content"] for one in files_of(text)}
    ours = {file.path: sha256(file.content) for file in plan.series.files}
    assert ours and found == {**reused, **compiled, **ours}
    named = json.loads(text)["metadata"]["tools"]["components"]
    assert {one["name"]: one["version"] for one in named} == tools
    assert sbom(plan, reused, compiled, tools).decode() == text
    other = sbom(plan, {"vllm/_C.abi3.so": "1" * 64}, compiled, tools).decode()
    assert json.loads(other)["serialNumber"] != json.loads(text)["serialNumber"]


def files_of(text: str) -> list[dict[str, Any]]:
    return [one for one in json.loads(text)["components"] if one["type"] == "file"]
