# SPDX-License-Identifier: Apache-2.0
"""FlashMLA's sparse functions in `vllm/v1/attention/ops/flashmla.py`, on SM12x ours."""

from collections.abc import MutableMapping
from typing import Any

from .. import envs
from ..ops import flash_mla
from ..support.choice import KNOB


def supported() -> tuple[bool, str | None]:
    """Answer for `is_flashmla_sparse_supported`: yes, and so no reason why not."""
    return True, None


def bind(names: MutableMapping[str, Any]) -> None:
    """Put our functions into `names`, the module's namespace, unless the knob forbids it.

    FlashMLA has no code for SM12x, so nothing that works is hidden, whichever path a model takes
    later. Its dense functions stay as they are.
    """
    if envs.get(KNOB) is False:
        return
    for name in flash_mla.__all__:
        names[name] = getattr(flash_mla, name)
    names["is_flashmla_sparse_supported"] = supported
