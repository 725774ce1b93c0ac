# SPDX-License-Identifier: Apache-2.0
"""Every environment variable of the overlay, in one table.

Works alone (`get`) and inside vLLM (`register`, called by one seam at the end of `vllm/envs.py`).
That seam runs while vLLM is being imported, so nothing here may import vLLM.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

_warned: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class EnvVar:
    """One environment variable.

    `default` is the parsed value that an unset or invalid variable has. `parser` turns the text
    into a value and raises ValueError, with what would be valid, on any other text.
    `compile_factor` says whether the value changes compiled graphs, and so belongs into the keys
    of torch.compile's cache.
    """

    name: str
    default: Any
    parser: Callable[[str], Any]
    meaning: str
    compile_factor: bool
    aliases: tuple[str, ...] = ()

    def __call__(self) -> Any:
        """Read the variable from the environment: `vllm.envs` calls its entries this way.

        The name wins over its aliases, even with an invalid value. Empty text counts as unset.
        """
        for name in (self.name, *self.aliases):
            text = os.environ.get(name, "").strip()
            if text:
                return self._parse(name, text)
        return self.default

    def _parse(self, name: str, text: str) -> Any:
        try:
            return self.parser(text)
        except ValueError as error:
            if self.name not in _warned:
                _warned.add(self.name)
                logger.warning(
                    "Ignoring %s=%r: %s. Using the default, %s.", name, text, error, self.default
                )
            return self.default


def choice(*values: str) -> Callable[[str], str]:
    """Return a parser that takes one of `values`, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError(f"expected one of {', '.join(values)}")
        return text.lower()

    return parse


def gibibytes(text: str) -> float:
    """Parse a finite size in GiB that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError("expected a size in GiB, such as 50 or 0.5")
    return value


VARIABLES: tuple[EnvVar, ...] = (
    EnvVar(
        name="VLLM_SM12X_PREFETCH",
        default="auto",
        parser=choice("auto", "1", "0"),
        meaning=(
            "Whether a checkpoint is read into the page cache while it is loaded when no "
            "safetensors load strategy is given: auto decides by file system, size and memory, "
            "1 always does, 0 never does."
        ),
        compile_factor=False,
    ),
    EnvVar(
        name="VLLM_SM12X_PREFETCH_MIN_GIB",
        default=50.0,
        parser=gibibytes,
        meaning="Automatic prefetch starts above this many GiB of checkpoint per rank.",
        compile_factor=False,
    ),
)


def get(name: str) -> Any:
    """Return the value of the variable `name`; KeyError if the table has no such name."""
    for variable in VARIABLES:
        if variable.name == name:
            return variable()
    raise KeyError(name)


def register(
    table: MutableMapping[str, Callable[[], Any]], variables: Iterable[EnvVar] = VARIABLES
) -> None:
    """Add the variables and their aliases to `table`, which is `vllm.envs.environment_variables`.

    Raises ValueError when the table has one already: two owners of a name would disagree.
    """
    for variable in variables:
        for name in (variable.name, *variable.aliases):
            if name in table:
                raise ValueError(f"{name} is registered already")
            table[name] = variable


def describe(variables: Iterable[EnvVar] = VARIABLES) -> str:
    """Return the table as Markdown, for the documentation."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for variable in variables:
        default = variable.default
        default = f"{default:g}" if isinstance(default, float) else default
        legacy = "".join(f" Legacy alias `{alias}`." for alias in variable.aliases)
        lines.append(f"| `{variable.name}` | {default} | {variable.meaning}{legacy} |")
    return "\n".join(lines) + "\n"
