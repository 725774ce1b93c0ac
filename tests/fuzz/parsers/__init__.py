# SPDX-License-Identifier: Apache-2.0
"""Every reader of the recipe, by where its inputs come from; one module each.
Takes the recipe's own functions.
Gives `PARSERS`, all of them by name.
"""

from __future__ import annotations

from tests.fuzz.parser import Parser
from tests.fuzz.parsers import cache, commands, series, sources, tools, wheels

PARSERS: dict[str, Parser] = {
    one.name: one
    for room in (series, sources, wheels, cache, tools, commands)
    for one in room.PARSERS
}
