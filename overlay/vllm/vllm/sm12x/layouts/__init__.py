# SPDX-License-Identifier: Apache-2.0
"""The two fp8_ds_mla cache layouts, DeepSeek V4's and V3.2's.

In: caches, slots and values. Out: where each byte of a token is (`formats`), how numbers become
bytes (`values`), pages that are made, checked, written and read (`pages`), and what a query row
picks from (`scope`).
"""

from .formats import LAYOUTS, LOAD_BYTES, SCALE_ROW_BYTES, V4, V32, Layout
from .pages import check_cache, describe, empty_cache, pack, token_offsets, unpack
from .scope import Scope
from .values import ScaleRule, exponents_to_scales, quantize, scales_to_exponents

__all__ = [
    "LAYOUTS", "LOAD_BYTES", "SCALE_ROW_BYTES", "V4", "V32", "Layout", "ScaleRule", "Scope",
    "check_cache", "describe", "empty_cache", "exponents_to_scales", "pack", "quantize",
    "scales_to_exponents", "token_offsets", "unpack",
]  # fmt: skip
