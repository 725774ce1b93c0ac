# SPDX-License-Identifier: Apache-2.0
"""Tests of the overlay alone: it must work where no vLLM is installed."""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

OVERLAY = Path(__file__).parents[2] / "overlay" / "vllm"


def _installed() -> bool:
    # Asked for by its folder: looking for vllm.sm12x itself would import all of vLLM.
    vllm = importlib.util.find_spec("vllm")
    folders = vllm.submodule_search_locations if vllm else None
    return any((Path(folder) / "sm12x").is_dir() for folder in folders or ())


if not _installed():
    sys.path.insert(0, str(OVERLAY))


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def log_of() -> Iterator[Callable[[str], list[logging.LogRecord]]]:
    """What a logger says; caplog hears nothing of it once vLLM has configured its loggers."""
    undo = ExitStack()

    def listen(name: str) -> list[logging.LogRecord]:
        logger, handler = logging.getLogger(name), _Records()
        undo.callback(logger.setLevel, logger.level)
        undo.callback(logger.removeHandler, handler)
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
        return handler.records

    with undo:
        yield listen
