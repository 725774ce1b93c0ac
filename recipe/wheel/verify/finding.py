# SPDX-License-Identifier: Apache-2.0
"""One thing of a wheel that isn't as it must be."""

from __future__ import annotations

from dataclasses import dataclass

from recipe.objects.gate.names import escaped

# In the place of a member's name, for what is of no member.
ARCHIVE = "(the archive)"
FILE_NAME = "(the file's name)"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """member: its name, as it stands in the archive. why: what is wrong with it."""

    member: str
    why: str

    def __str__(self) -> str:
        special = self.member in (ARCHIVE, FILE_NAME)
        return f"{self.member if special else escaped(self.member)[1:-1]} {self.why}"
