# SPDX-License-Identifier: Apache-2.0
"""`bases add` tells who serves each model on SM12x with the FlashInfer that the release pins."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.overlay.flashinfer_wheels import install
from tests.recipe import small
from tests.recipe.bases.test_pinning import NEW, TREE
from tests.recipe.world import CHECKOUT, World

PINNED = "0.7.2.post1"
WHEEL = f"flashinfer_python-{PINNED}-py3-none-any.whl"
CUDA = b"-r common.txt\ntorch==2.12.0\n"


def publish(world: World, requirements: bytes) -> World:
    """The index gains a release with these requirements, and the world has the real overlay."""
    tree = {**TREE, "requirements/cuda.txt": requirements}
    world.index.add("vllm", f"vllm-{NEW}.tar.gz", small.make_sdist(tree, NEW))
    for machine in small.WHEELS:
        name = f"vllm-{NEW}-cp38-abi3-manylinux_2_28_{machine}.whl"
        world.index.add("vllm", name, small.make_wheel({"vllm/_C.abi3.so": b"so"}))
    ours = Path("overlay", "vllm", "vllm", "sm12x")
    shutil.copytree(CHECKOUT / ours, world.root / ours)
    return world


def flashinfer(folder: Path, *, moved: bool = False) -> bytes:
    """A wheel with the layout of a published one; `moved`: its kernels are called otherwise."""
    install(folder, PINNED, metadata=False)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            name = name.replace("sparse_mla_sm120", "mla_blackwell") if moved else name
            if path.is_file():
                wheel.writestr(name, path.read_bytes())
    return content.getvalue()


def added(world: World) -> tuple[dict[str, Any], str]:
    """What pinning says of the release's paths, as JSON and as text."""
    document = json.loads(world.good("bases", "add", f"v{NEW}", "--json").out)["paths"][f"v{NEW}"]
    assert isinstance(document, dict)
    return document, world.good("bases", "add", f"v{NEW}").out


@pytest.mark.parametrize("moved", [False, True])
def test_the_paths_are_told_from_the_wheel_that_is_pinned(
    world: World, tmp_path: Path, moved: bool
) -> None:
    """Kernels that moved count as there, and the line says to look for them."""
    publish(world, CUDA + f"flashinfer-python=={PINNED}  # kernels\n".encode())
    world.index.add("flashinfer-python", WHEEL, flashinfer(tmp_path / "wheel", moved=moved))

    document, text = added(world)

    assert document["flashinfer"] == PINNED
    assert ("look for its kernels by hand" in document["problem"]) is moved
    assert {row["path"] for row in document["paths"] if row["model"] == "GLM-5.2"} == {"upstream"}
    assert f"sparse MLA on SM12x with FlashInfer {PINNED}" in text
    assert "upstream: DeepSeek V4-Flash" in text
    asked = world.index.fetched(WHEEL)
    assert asked and all(wanted and wanted.startswith("bytes=") for wanted in asked)


@pytest.mark.parametrize(
    ("requirements", "said"),
    [
        (CUDA, "fixes no version of FlashInfer"),
        (CUDA + b"flashinfer-python>=0.7\n", "fixes no version of FlashInfer"),
        (CUDA + b"flashinfer-python==0.9.9\n", "flashinfer-python"),
    ],
)
def test_what_cannot_be_told_stops_no_pinning(world: World, requirements: bytes, said: str) -> None:
    document, text = added(publish(world, requirements))
    assert document["paths"] == [] and said in document["problem"]
    assert said in text
