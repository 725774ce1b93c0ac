# SPDX-License-Identifier: Apache-2.0
"""What an operator was called with, as JSON lines, for a report of a fault: shapes, no contents."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import envs

KNOB = "VLLM_TRITON_MLA_SPARSE_DUMP"


def dump_and_stop(operator: str, arguments: Mapping[str, Any]) -> None:
    """Write a line an argument and raise RuntimeError if the knob asks for it; else do nothing.

    Not while a graph is captured: raising there would leave the stream in a broken state.
    """
    if not envs.get(KNOB) or _capturing():
        return
    given = envs.get(f"{KNOB}_PATH")
    path = Path(given or Path(tempfile.gettempdir(), f"sm12x-sparse-mla-{os.getpid()}.jsonl"))
    lines = [{"operator": operator, "argument": n, **_metadata(v)} for n, v in arguments.items()]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    except (OSError, ValueError) as error:  # a folder, no rights, a name with NUL
        why = getattr(error, "strerror", None) or error
        raise RuntimeError(
            f"{KNOB} is 1, and the arguments of {operator} can't be written to {path} ({why}); "
            f"nothing was run. Give {KNOB}_PATH a file that can be written."
        ) from error
    raise RuntimeError(f"{KNOB} is 1: the arguments of {operator} are in {path}; nothing was run")


def _capturing() -> bool:
    return bool(torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def _metadata(value: Any) -> dict[str, Any]:
    if not isinstance(value, torch.Tensor):
        plain = value is None or isinstance(value, (bool, int, float))
        return {"value": value if plain else type(value).__name__}
    return {
        "shape": list(value.shape),
        "dtype": str(value.dtype).removeprefix("torch."),
        "strides": list(value.stride()),
        "storage_offset": value.storage_offset(),
        "device": str(value.device),
        "address_modulo_256": value.data_ptr() % 256,
    }
