# SPDX-License-Identifier: Apache-2.0
"""What is tried: a reader of the recipe, what it may refuse with, and real inputs to begin with."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from unittest import mock

from recipe.ground import run
from recipe.ground.errors import RecipeError

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
# Of processor time, so that a busy machine makes no hang; an input has some thousand bytes.
HANG_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One reader.

    read: reads an input; the folder is its own, for readers of files. refuses: what it may raise
    besides. seeds: paths of real inputs, from the root of the repository (a pattern with *); made:
    inputs that are made as the real ones are. largest: inputs beyond that many bytes would take
    the fuzzer's time and show no more.
    """

    name: str
    read: Callable[[bytes, Path], object]
    refuses: tuple[type[BaseException], ...] = ()
    seeds: tuple[str, ...] = ()
    made: Callable[[], list[bytes]] = list
    largest: int = 2048

    def inputs(self) -> list[bytes]:
        """The real inputs, those that once made it fall over among them."""
        paths = [path for seed in self.seeds for path in sorted(ROOT.glob(seed))]
        kept = sorted((CORPUS / self.name).glob("*"))
        given = [*(path.read_bytes() for path in (*paths, *kept)), *self.made()]
        return [content for content in given if len(content) <= self.largest]

    def accepts(self, content: bytes, folder: Path) -> bool:
        """Whether the input was read; False where it was refused as it may be. Anything else that
        is raised is a fault, `Hang` among them."""
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        refused: tuple[type[BaseException], ...] = (RecipeError, *self.refuses)
        try:
            with limited():
                self.read(content, folder)
        except refused:
            return False
        return True


class Hang(BaseException):
    """An input that takes more than `HANG_SECONDS`."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def saying(*answers: bytes) -> Iterator[None]:
    """Every command that the block runs says this, one after another; the last says it again."""
    left = list(answers)

    def output(*args: object, **named: object) -> bytes:
        return left.pop(0) if len(left) > 1 else left[0]

    with mock.patch.object(run, "output", output):
        yield


def text(content: bytes) -> str:
    """An argument as the system hands it on."""
    return content.decode("utf-8", "surrogateescape").replace("\0", "")
