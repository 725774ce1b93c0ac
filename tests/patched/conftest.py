# SPDX-License-Identifier: Apache-2.0
"""What the tests against a built wheel stand on: the base, both trees, and a vLLM without a GPU.

The recipe sets SM12X_BASE (0.20.2), SM12X_TREE and SM12X_PRISTINE (folders with the patched and the
unpatched sources). Without SM12X_BASE the tests skip.
"""

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version

BASE = os.environ.get("SM12X_BASE")
TRIAL = "SM12X_TORCHVISION_LOADS"


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports vLLM, let it take its CPU platform, here and in subprocesses.

    A CUDA build without a GPU has no platform, and many of its modules then don't import. vLLM
    takes its CPU platform if the version in its metadata has "cpu" in it, newer releases also by
    VLLM_TARGET_DEVICE, so metadata that says so goes first on the path. What vLLM caches about
    model classes goes to the same folder, so that no other vLLM's cache is read.
    """
    if BASE is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="sm12x-cpu-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    version = f"{BASE}+cpu"
    metadata = folder / f"vllm-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8"
    )
    sys.path.insert(0, str(folder))
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{others}" if others else str(folder)
    os.environ["VLLM_TARGET_DEVICE"] = "cpu"
    os.environ["VLLM_CACHE_ROOT"] = str(folder / "cache")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"


def pytest_itemcollected(item: pytest.Item) -> None:
    # What upstream and its dependencies warn of is theirs to mend.
    item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def base() -> Version:
    """The upstream release that the installed wheel was made from."""
    if BASE is None:
        pytest.skip("SM12X_BASE is not set: these tests need a built wheel (build.py sets it)")
    declare_torchvision_operators()
    spec = importlib.util.find_spec("vllm")
    assert spec is not None, "no vllm is installed beside pytest"
    origin = Path(spec.origin or "")
    assert origin.is_relative_to(sysconfig.get_path("platlib")), f"vllm is not the wheel: {origin}"
    return Version(BASE)


@pytest.fixture(scope="session")
def tree(base: Version) -> Path:
    """The patched sources."""
    return folder_from("SM12X_TREE")


@pytest.fixture(scope="session")
def pristine(base: Version) -> Path:
    """The sources as upstream released them."""
    return folder_from("SM12X_PRISTINE")


def folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if value is None:
        pytest.skip(f"{variable} is not set: this test needs that source tree")
    assert Path(value).is_dir(), f"{variable}={value} is no folder"
    return Path(value)


def torchvision_loads() -> bool:
    """Whether it does beside this torch; what is started from here needn't find out again."""
    if TRIAL not in os.environ:
        trial = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
        os.environ[TRIAL] = "" if trial.returncode else "yes"
    return bool(os.environ[TRIAL])


def declare_torchvision_operators() -> None:
    """Let torchvision import beside a torch that its compiled part doesn't load with.

    The index has torchvision for CUDA only. Beside a CPU build of torch its library fails to load,
    which torchvision puts up with, but then it gives two operators a shape function that were
    never declared. Nothing here calls them. A process of its own finds out: an import can't be
    taken back, and operators declared twice abort the process.
    """
    if importlib.util.find_spec("torchvision") is None or "torchvision" in sys.modules:
        return
    if torchvision_loads():
        return
    import torch

    for name in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )


@pytest.fixture(scope="session")
def flashinfer_wheels() -> ModuleType:
    """The helper of tests/overlay that knows the layouts of FlashInfer's published wheels."""
    path = Path(__file__).parents[1] / "overlay" / "flashinfer_wheels.py"
    spec = importlib.util.spec_from_file_location("flashinfer_wheels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def have_flashinfer(
    base: Version,
    flashinfer_wheels: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Path]]:
    """Install the layout of a published FlashInfer, of the newest unless another is named.

    vLLM's own checks look at it and import what they ask for. The cubins that they want besides
    seem to be there.
    """
    from vllm.utils import flashinfer

    monkeypatch.setenv("VLLM_HAS_FLASHINFER_CUBIN", "1")
    numbers = itertools.count()

    def have(version: str = "0.7.2.post1") -> Path:
        root = tmp_path / f"site-{next(numbers)}"
        package: Path = flashinfer_wheels.install(root, version, imports=True)
        monkeypatch.syspath_prepend(root)
        forget_flashinfer(flashinfer)
        return package

    yield have
    monkeypatch.undo()
    forget_flashinfer(flashinfer)


def forget_flashinfer(asked: ModuleType) -> None:
    """Take out what was imported of it, and what vLLM's module for it remembers of its presence."""
    for name in [name for name in sys.modules if name.split(".")[0] == "flashinfer"]:
        del sys.modules[name]
    for name, function in vars(asked).items():
        if name.startswith("has_flashinfer") and hasattr(function, "cache_clear"):
            function.cache_clear()
