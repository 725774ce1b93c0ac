# SPDX-License-Identifier: Apache-2.0
"""How long and how much we listen to a server: one that never ends, or hardly sends, is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import httpx2

Answer = TypeVar("Answer")

# The public index's page of vLLM has 0.2 MB, and 1.5 MB of the projects with the most files.
PAGE_BYTES = 64 << 20
PAGES_SECONDS = 300.0
OPENING_SECONDS = 120.0
# Less than this for a minute is no progress: a wheel would take half a day.
BYTES_A_SECOND = 8 << 10
PROGRESS_SECONDS = 60.0
FILE_SECONDS = 12 * 3600.0


class TooSlow(OSError):
    """A server that is there and doesn't get on."""


class TooLong(OSError):
    """A server that sends more than there can be."""


class Pace:
    """Watches what has come so far: `note` raises TooSlow when it is too little."""

    def __init__(self, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.began = self.marked = clock()
        self.done = done

    def note(self, done: int) -> None:
        now = self.clock()
        if now - self.began > FILE_SECONDS:
            raise TooSlow(f"it takes more than {FILE_SECONDS / 3600:.0f} hours")
        if now - self.marked < PROGRESS_SECONDS:
            return
        if done - self.done < BYTES_A_SECOND * PROGRESS_SECONDS:
            raise TooSlow(f"only {done - self.done} bytes came in {now - self.marked:.0f} seconds")
        self.marked, self.done = now, done


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What `call` gives, or its exception; TooSlow if it is still at it after so many seconds.

    A socket's own timeout begins anew with each byte. Python can't end a thread, so one that hangs
    stays behind until the process ends.
    """
    results: list[Answer] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # it is raised again where somebody waits
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TooSlow(f"no whole answer in {seconds:.0f} seconds")
    if failures:
        raise failures[0]
    return results[0]


def page_reader(index_urls: list[str]) -> Any:
    """What unearth asks for its pages: they have so many bytes and no more, packed or not.

    Any: unearth's own client doesn't fit the type that its finder asks for.
    """
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers.sync import PyPIClient

    class Reader(PyPIClient):
        def send(
            self, request: httpx2.Request, *, stream: bool = False, **how: Any
        ) -> httpx2.Response:
            answer = super().send(request, stream=True, **how)
            if stream:
                return answer
            try:
                content = bytearray()
                for chunk in answer.iter_bytes():
                    content += chunk
                    if len(content) > PAGE_BYTES:
                        raise TooLong(f"{request.url.host} sends a page of more than {PAGE_BYTES}")
            finally:
                answer.close()
            return whole(answer, bytes(content))

    reader = Reader()
    reader.auth = MultiDomainBasicAuth(index_urls=index_urls)
    return reader


def whole(answer: httpx2.Response, content: bytes) -> httpx2.Response:
    """The same answer, read to its end."""
    import httpx2

    packing = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in answer.headers.multi_items() if name not in packing]
    return httpx2.Response(
        answer.status_code,
        headers=headers,
        content=content,
        request=answer.request,
        history=answer.history,
    )
