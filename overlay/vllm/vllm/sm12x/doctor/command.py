# SPDX-License-Identifier: Apache-2.0
"""What this machine has for vLLM on SM12x, which paths models will take there, what to change.

python -m vllm.sm12x.doctor [--device 12.1] [--json]

Looks only: nothing is loaded onto a GPU, and neither vLLM's extensions nor FlashInfer are imported.
It runs without torch, and without anything else that the wheel asks for. With --device it tells the
paths alone, on such a device with what is installed here. Exits 8 when what is installed can't
serve, else 0.
"""

import argparse
import json
import re
from dataclasses import asdict
from typing import Any

from .. import envs
from ..support.choice import KNOB
from ..support.flashinfer import find_flashinfer, flashinfer_v4_shapes
from ..support.models import paths
from .machine import Facts, gather, installed_version
from .report import advise, as_json, choices, choose_gemm, path_lines, path_rows, report

UNFIT = 8


def capability_of(text: str) -> tuple[int, int]:
    """Read a capability as it is written, 12.1."""
    found = re.fullmatch(r"(\d{1,3})\.(\d)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no capability; write it as 12.1")
    return int(found[1]), int(found[2])


def foretell(capability: tuple[int, int], forced: bool | None, *, json_wanted: bool) -> int:
    """Print the paths on a device that needn't be here, with the vLLM and FlashInfer that are."""
    version, name = installed_version("vllm"), f"{capability[0]}.{capability[1]}"
    found = () if version is None else paths(
        vllm_version=version, found=find_flashinfer(), shapes=flashinfer_v4_shapes(),
        is_cuda=True, capability=capability, forced=forced,
    )  # fmt: skip
    if json_wanted:
        print(json.dumps({"schema": 1, "device": name, "paths": path_rows(found)}))
    else:
        print("\n".join([f"Sparse MLA on a device of capability {name}", *path_lines(found)]))
    return 0


def described(facts: Facts) -> dict[str, Any]:
    """Return what was found, in JSON's types."""
    shapes = facts.flashinfer_shapes
    return asdict(facts) | {
        "flashinfer_shapes": None if shapes is None else sorted(shapes),
        "faults": [asdict(fault) | {"kind": fault.kind.name.lower()} for fault in facts.faults],
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 8 when nothing can be served, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm.sm12x.doctor", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--device", type=capability_of, metavar="MAJOR.MINOR",
        help="tell the paths on a device of this capability instead, such as 12.1",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    # Read without the warning that `envs.get` gives; what is invalid is in the report.
    (forced,) = (v.read().value for v in envs.VARIABLES if v.name == KNOB)
    if options.device is not None:
        return foretell(options.device, forced, json_wanted=options.json)
    facts = gather()
    device = (*facts.sm12x, *facts.devices, None)[0]
    found = choices(facts, device, forced)
    gemm = choose_gemm(facts, device, forced)
    advice = advise(facts, found, gemm)
    code = UNFIT if any(fault.stops for fault in facts.faults) else 0
    if not options.json:
        print(report(facts, found, gemm, advice))
        return code
    document = {
        "schema": 1,
        **described(facts),
        "paths": path_rows(found),
        "gemm_path": None if gemm is None else as_json(gemm),
        "advice": advice,
    }
    print(json.dumps(document))
    return code
