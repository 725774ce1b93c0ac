# SPDX-License-Identifier: Apache-2.0
"""Which path each model takes on SM12x in a release: the overlay is asked, on the FlashInfer that
the release pins. Of that wheel its list of files and a few small ones are read by ranges.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from recipe.bases.catalog import UNREADABLE, RemoteFile
from recipe.bases.download import Link, list_release
from recipe.bases.pins import Reader, first_of
from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.objects.gate.members import check_members
from recipe.objects.gate.names import LARGEST_FILE

DEVICE = "12.1"
# Of a wheel's list: whatever tells releases apart, and what vLLM imports of it.
MATTERS = re.compile(
    r"flashinfer/(__init__|_build_meta|decode|autotuner)\.py|flashinfer/autotuner/__init__\.py"
    r"|flashinfer/mla/(__init__|_core)\.py|flashinfer/mla/_sparse_mla\w*\.py"
    r"|flashinfer/mla/_sparse_mla_sm120/\w+\.py|flashinfer/data/csrc/sparse_mla_sm120.*"
)
READ = re.compile(r"flashinfer/(_build_meta|mla/_sparse_mla_sm120)\.py")
KERNELS = "sparse_mla_sm120"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was found of one release: its FlashInfer, the paths, and what to look at by hand."""

    flashinfer: str | None
    paths: tuple[dict[str, Any], ...] = ()
    problem: str = ""


def remote(link: Link) -> zipfile.ZipFile:
    """A wheel on the index, read where it is asked for."""
    wheel = zipfile.ZipFile(io.BufferedReader(RemoteFile(link.url), 1 << 18))
    check_members(wheel, lambda name, why: ValueError(f"{link.name}: {name} {why}"))
    if any(info.file_size > LARGEST_FILE for info in wheel.infolist() if READ.match(info.filename)):
        raise ValueError(f"{link.name}: a file of Python has more than {LARGEST_FILE} bytes")
    return wheel


def pinned(read: Reader) -> str | None:
    """The version of FlashInfer that a release requires, None where it fixes none."""
    _, requirements = first_of(read, "requirements/cuda.txt", "requirements-cuda.txt")
    for line in requirements.splitlines():
        text = line.partition("#")[0].strip()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name == "flashinfer-python":
            exact = [one.version for one in requirement.specifier if one.operator == "=="]
            return exact[0] if exact else None
    return None


def tell(overlay: Path, release: str, read: Reader) -> Told:
    """The paths in a release, by the overlay's doctor; a problem instead where that can't be told.

    `overlay`: the folder with the overlay's `vllm`.
    """
    version = pinned(read)
    if version is None:
        return Told(flashinfer=None, problem="it fixes no version of FlashInfer")
    try:
        wheels = [
            link
            for link in list_release("flashinfer-python", version)
            if link.name.endswith(".whl")
        ]
        if not wheels:
            return Told(flashinfer=version, problem="the index has no wheel of it")
        with remote(wheels[0]) as wheel, tempfile.TemporaryDirectory() as folder:
            lay(Path(folder), wheel, release)
            known = any(KERNELS in name for name in wheel.namelist())
            paths = ask(overlay, Path(folder))
    except (SourceError, *UNREADABLE, run.CommandFailed) as error:
        return Told(flashinfer=version, problem=str(error).splitlines()[0])
    moved = "" if known else f"no file of it is named {KERNELS}: look for its kernels by hand"
    return Told(flashinfer=version, paths=tuple(paths), problem=moved)


def lay(folder: Path, wheel: zipfile.ZipFile, release: str) -> None:
    """What a look at an installed FlashInfer reads, and the metadata of a vLLM beside it."""
    for name in wheel.namelist():
        if not MATTERS.fullmatch(name):
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wheel.read(name) if READ.fullmatch(name) else b"")
    metadata = folder / f"vllm-{release}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n", encoding="utf-8"
    )


def ask(overlay: Path, folder: Path) -> list[dict[str, Any]]:
    """Run the overlay's doctor on what was laid; nothing of it is imported here."""
    command = [sys.executable, "-S", "-m", "vllm.sm12x.doctor", "--device", DEVICE, "--json"]
    places = {"PYTHONPATH": f"{folder}:{overlay}", "VLLM_TRITON_MLA_SPARSE": ""}
    found: list[dict[str, Any]] = json.loads(run.output(command, env=places))["paths"]
    return found


def as_lines(told: Told) -> list[str]:
    """The paths, each with the models that take it for the same reason."""
    if told.flashinfer is None:
        return [f"sparse MLA on SM12x isn't told: {told.problem}"]
    lines = [f"sparse MLA on SM12x with FlashInfer {told.flashinfer}"]
    lines += [f"  {told.problem}"] if told.problem else []
    together: dict[tuple[str, str], list[str]] = {}
    for row in told.paths:
        models = together.setdefault((row["path"], row["why"]), [])
        if row["model"] not in models:
            models.append(row["model"])
    return lines + [
        f"  {path}: {', '.join(models)}: {why}" for (path, why), models in together.items()
    ]


def as_json(told: Told) -> dict[str, Any]:
    return {"flashinfer": told.flashinfer, "paths": list(told.paths), "problem": told.problem}
