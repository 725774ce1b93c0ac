# SPDX-License-Identifier: Apache-2.0
"""Asks the server: alone, then many at once, then alone again, until the budget ends."""

import math
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import NoServerError, SoakError
from ..server.answers import FAILED, Answer, Outcome
from ..server.client import Ask, Client
from ..server.discover import Server, explain_refusal
from .prompts import Conversation, conversations
from .records import Phase, Record
from .schedule import (
    LEAST,
    ROUND,
    Job,
    after_jobs,
    load_jobs,
    pair_prompts,
    quiet_jobs,
    share,
    twin_jobs,
)  # fmt: skip

BUSY_WAIT_S = 1.0
# How long one may wait for the first text under load: the queue before it takes so many times what
# the slowest prompt took alone.
QUEUE = 4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for on the command line."""

    requests: int | None
    minutes: float | None
    concurrency: int
    depths: tuple[float, ...]
    answer_tokens: int
    count_tokens: int
    cancelled: float
    """Share of the long answers under load that are cancelled, 0 to 1."""
    first_s: float
    """Seconds that a prompt may take until its first text when it is alone."""
    stall_s: float
    seed: int


@dataclass(kw_only=True)
class Run:
    """A run as it goes on; may be read at any time."""

    client: Client
    server: Server
    plan: Plan
    tell: Callable[[Phase, int, int], None]
    """Called after each answer: the phase, answers of it so far, and how many it will have."""
    spent: int = 0
    """Requests made before the run, to find out what the server is."""
    records: list[Record] = field(default_factory=list)
    hung: bool = False
    _started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _in_flight: int = 0
    _number: int = 0
    _failures: int = 0

    def go(self) -> None:
        """Ask until nothing is left to ask. Raises SoakError if the first prompt is refused."""
        number = 0
        anchors: Sequence[Conversation] = ()
        while not self._over(LEAST if number else 1):
            left = self._left()
            size = min(ROUND, left)
            if ROUND < left < ROUND + LEAST * 2:
                size = left  # no tiny round at the end
            anchors = self._round(number, int(size), anchors)
            number += 1

    def stop(self) -> None:
        """End what is under way; what isn't whole then is left out."""
        self._stop.set()
        self.client.close()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    def _round(
        self, number: int, size: int, anchors: Sequence[Conversation]
    ) -> Sequence[Conversation]:
        plan, first = self.plan, number == 0
        shares = share(size, plan.concurrency, first=first)
        made = conversations(
            self.server, families=shares.families, depths=plan.depths, seed=plan.seed,
            answer_tokens=plan.answer_tokens, count_tokens=plan.count_tokens,
            first=number * 1000,
        )  # fmt: skip
        rng = random.Random(f"{plan.seed}/{number}")
        quiet, repeats = quiet_jobs(made, shares)
        again = pair_prompts(quiet, shares)
        for job in quiet:
            self._alone(Phase.QUIET, [job], number, len(quiet))
            if job.prompt.name in again:
                self._alone(Phase.AGAIN, [job], number, len(again))
        self._alone(Phase.REPEAT, repeats, number, len(repeats))
        for batch in twin_jobs(made, shares) if first else []:
            self._many(Phase.TWINS, [[job] for job in batch], number, shares.twins * len(batch))
        load = load_jobs(made, shares.load, rng, cancelled=plan.cancelled)
        self._many(Phase.LOAD, load, number, shares.load)
        anchors = anchors or made
        after = after_jobs(anchors, shares.after, rng)
        self._alone(Phase.AFTER, after, number, len(after))
        return anchors

    def _alone(self, phase: Phase, jobs: Sequence[Job], number: int, total: int) -> None:
        for job in jobs:
            if self._over(1):
                return
            self._one(phase, job, number, total)

    def _many(self, phase: Phase, work: list[list[Job]], number: int, total: int) -> None:
        waiting: queue.SimpleQueue[list[Job]] = queue.SimpleQueue()
        for jobs in work:
            waiting.put(jobs)

        def converse() -> None:
            while not self._over(1):
                try:
                    jobs = waiting.get_nowait()
                except queue.Empty:
                    return
                for job in jobs:
                    if not self._over(1):
                        self._one(phase, job, number, total)

        width = min(self.plan.concurrency, len(work))
        # Daemons, so that an interrupted program ends whatever they wait for.
        threads = [threading.Thread(target=converse, daemon=True) for _ in range(width)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)

    def _one(self, phase: Phase, job: Job, number: int, total: int) -> None:
        with self._lock:
            self._number += 1
            self._in_flight += 1
            mine, in_flight, at = self._number, self._in_flight, self.seconds
        answer = self.client.ask(self._ask(phase, job, mine))
        record = Record(
            number=mine, phase=phase, round=number, prompt=job.prompt, answer=answer, at_s=at,
            in_flight=in_flight,
        )  # fmt: skip
        with self._lock:
            self._in_flight -= 1
            if self._stop.is_set():
                return
            self.records.append(record)
            done = sum(r.phase is phase and r.round == number for r in self.records)
            self._failures = self._failures + 1 if answer.outcome in FAILED else 0
            if self._failures > max(2, self.plan.concurrency):
                self.hung = True
                self._stop.set()
        self.tell(phase, done, total)
        self._check(record)
        if answer.outcome is Outcome.BUSY:
            self._stop.wait(BUSY_WAIT_S)

    def _check(self, record: Record) -> None:
        if len(self.records) > 1 or record.phase is not Phase.QUIET:
            return
        # The first and longest prompt: what fails here fails for all.
        if record.answer.outcome is Outcome.REFUSED:
            raise explain_refusal(record.answer, self.server)
        if record.answer.outcome in (*FAILED, Outcome.BUSY):
            raise NoServerError(
                f"The first and longest prompt had no answer ({record.answer.detail}). Look at the "
                "server's log; give it more time with --first-token SECONDS, or less to read with "
                "--context TOKENS."
            )

    def _ask(self, phase: Phase, job: Job, number: int) -> Ask:
        prompt, server = job.prompt, self.server
        salt = uuid.uuid4().hex if job.cold else None
        limit = self.plan.first_s
        cancel = None
        if phase in (Phase.LOAD, Phase.TWINS):
            slowest = max((r.answer.first_s or 0.0 for r in self._references()), default=0.0)
            limit = min(limit, self.plan.stall_s + QUEUE * self.plan.concurrency * slowest)
        if job.cancel:
            usual = max((r.answer.pieces for r in self._references(prompt.name)), default=2)
            cancel = 1 + random.Random(f"{self.plan.seed}/{number}").randrange(max(1, usual // 2))
        body = server.body(prompt.content(server.endpoint), prompt.max_tokens, salt=salt)
        return Ask(
            path=server.endpoint.path, body=body, first_limit_s=limit, stall_s=self.plan.stall_s,
            cancel_after=cancel,
        )  # fmt: skip

    def _references(self, name: str | None = None) -> list[Record]:
        with self._lock:
            known = [r for r in self.records if r.phase is Phase.QUIET]
        return [r for r in known if name is None or r.prompt.name == name]

    def _left(self) -> float:
        if self.plan.requests is None:
            return math.inf
        return self.plan.requests - self.spent - self._number

    def _over(self, least: int) -> bool:
        late = self.plan.minutes is not None and self.seconds > self.plan.minutes * 60
        return self._stop.is_set() or late or self._left() < least


def judged(records: Sequence[Record]) -> list[Record]:
    """Return records in the order in which they were sent."""
    return sorted(records, key=lambda record: record.number)


def require(plan: Plan) -> None:
    """Raise SoakError where a plan can't show anything."""
    if plan.requests is not None and plan.requests < LEAST:
        raise SoakError(f"--requests {plan.requests} can't show anything. Give {LEAST} or more.")


def answered(records: Sequence[Record]) -> list[Answer]:
    """Return the answers that came whole."""
    return [record.answer for record in records if record.answer.ended]
