# SPDX-License-Identifier: Apache-2.0
"""The tile of a block-FP8 GEMM for few rows, where no tuned file knows the shape."""

from typing import Any

# A tensor core's tile has 16 rows. Upstream's 64 for any M leave most of a tile empty in a decode
# step (vllm-project/vllm#40925).
FEW, ROWS = 8, 16
STAGES, STAGES_ROCM = 3, 2


def for_few_rows(config: dict[str, Any], m: int, *, is_rocm: bool) -> dict[str, Any]:
    """Return `config`, upstream's default for any M, with a smaller tile for `m` <= 8 rows."""
    if m > FEW:
        return config
    stages = STAGES_ROCM if is_rocm else STAGES
    return {**config, "BLOCK_SIZE_M": ROWS, "num_stages": stages}
