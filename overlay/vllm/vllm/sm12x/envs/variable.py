# SPDX-License-Identifier: Apache-2.0
"""One environment variable: its name, its default, and how its text is read."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

logger = logging.getLogger(__name__)

_warned: set[str] = set()


class Origin(str, Enum):
    """Where a value comes from."""

    DEFAULT = "default"
    NAME = "environment"
    ALIAS = "legacy alias"
    INVALID = "default, because what is set is invalid"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A variable's value, where it comes from, and the name that was set, if one was."""

    value: Any
    origin: Origin
    name: str | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class EnvVar:
    """One environment variable.

    `default` is the parsed value that an unset or invalid variable has, `shown` how the
    documentation says it where the value alone says nothing. `parser` turns the text into a value
    and raises ValueError, with what would be valid, on any other text. `compile_factor` says
    whether the value changes compiled graphs, and so belongs into the keys of torch.compile's
    cache.
    """

    name: str
    default: Any
    parser: Callable[[str], Any]
    meaning: str
    compile_factor: bool
    aliases: tuple[str, ...] = ()
    shown: str = ""

    def __call__(self) -> Any:
        """Read the variable from the environment: `vllm.envs` calls its entries this way."""
        reading = self.read()
        if reading.problem and self.name not in _warned:
            _warned.add(self.name)
            logger.warning("%s Using the default, %s.", reading.problem, self.shown or self.default)
        return reading.value

    def read(self) -> Reading:
        """Return the value and its origin, without a warning.

        The name wins over its aliases, even with an invalid value. Empty text counts as unset.
        """
        for name in (self.name, *self.aliases):
            text = os.environ.get(name, "").strip()
            if not text:
                continue
            try:
                origin = Origin.NAME if name == self.name else Origin.ALIAS
                return Reading(value=self.parser(text), origin=origin, name=name)
            except ValueError as error:
                origin, problem = Origin.INVALID, f"Ignoring {name}={text!r}: {error}."
                return Reading(value=self.default, origin=origin, name=name, problem=problem)
        return Reading(value=self.default, origin=Origin.DEFAULT)
