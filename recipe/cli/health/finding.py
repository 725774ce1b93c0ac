# SPDX-License-Identifier: Apache-2.0
"""One thing that doctor has looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    name: str
    good: bool
    detail: str
    needed_by: str
    next: str = ""
