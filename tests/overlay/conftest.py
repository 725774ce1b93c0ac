# SPDX-License-Identifier: Apache-2.0
"""Tests of the overlay alone: it must work where no vLLM is installed."""

import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

TRIAL = "SM12X_TORCHVISION_LOADS"
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


@pytest.fixture(scope="session")
def modeling_of() -> Callable[[str], ModuleType]:
    """The code of a model of the transformers library; skips where that release has no such one."""
    transformers = pytest.importorskip("transformers")
    _let_torchvision_import()

    def load(model: str) -> ModuleType:
        if importlib.util.find_spec(f"transformers.models.{model}") is None:
            pytest.skip(f"transformers {transformers.__version__} has no {model}")
        return importlib.import_module(f"transformers.models.{model}.modeling_{model}")

    return load


def torchvision_loads() -> bool:
    """Whether it does beside this torch; what is started from here needn't find out again."""
    if TRIAL not in os.environ:
        trial = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
        os.environ[TRIAL] = "" if trial.returncode else "yes"
    return bool(os.environ[TRIAL])


def _let_torchvision_import() -> None:
    """Declare operators that torchvision misses beside a CPU build of torch.

    transformers imports it wherever it is installed, and tests/patched/conftest.py says what then
    goes wrong. Once imported it is left alone there.
    """
    if importlib.util.find_spec("torchvision") is None or "torchvision" in sys.modules:
        return
    import torch

    if not torchvision_loads() and not hasattr(torch.ops.torchvision, "nms"):
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
    importlib.import_module("torchvision")
