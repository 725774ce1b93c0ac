# SPDX-License-Identifier: Apache-2.0
"""The verdict: single answers that are wrong, and what is more frequent under load than alone."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..asking.prompts import Kind, Prompt
from ..asking.records import ALONE, Phase, Record, references
from ..server.discover import Endpoint
from .compare import difference
from .examine import LEAST_SAME, Finding, Known, Sign, examine
from .level import Compare, Level, decide
from .measures import Habits, healthy, looping, surprise
from .rates import exceeding, fisher

# Probability that a run over a right server has an alarm by a rate, over all rates together. It is
# shared out evenly among them.
FALSE_ALARM = 1e-3
# One answer of these is an alarm; the others take two.
GRAVE = (Sign.FOREIGN, Sign.OTHERS, Sign.STALLED, Sign.DROPPED, Sign.ERROR)
FEW = 2
# The model is good at a kind of prompt if it gets so many right when alone.
GOOD = 0.8
# So many answers beyond the range of those given alone, by its whole width and a little more.
FAR_OUT = 3
# The start of an answer is so much of it.
EARLY = 8
LEAST_RANGE = 12
# Differences that mean nothing, in the unit of each measure.
LITTLE = {"loop": 0.3, "bits a character": 0.5, "nats a token": 1.0}


class Verdict(str, Enum):
    """What a run comes to."""

    RIGHT = "no wrong answer"
    WRONG = "wrong answers"
    UNJUDGED = "nothing could be compared"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How frequent something is, in one phase and alone before it."""

    name: str
    kind: Kind | None
    phase: Phase
    bad: int
    of: int
    quiet_bad: int
    quiet_of: int
    p: float
    limit: float
    """An alarm below this."""
    far: int = 0
    """Values far beyond all that were seen alone."""

    @property
    def alarm(self) -> bool:
        return self.p < self.limit or self.far >= FAR_OUT


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All that was found out."""

    verdict: Verdict
    level: Level
    findings: tuple[Finding, ...]
    rates: tuple[Rate, ...]
    alarms: tuple[str, ...]
    """A sentence for each reason of the verdict WRONG."""
    checked: tuple[Kind, ...]
    """Kinds of prompts whose answers the model gets right when alone."""
    compared: int
    """Answers under load or after it that something was compared with."""


def judge(records: Sequence[Record], endpoint: Endpoint, asked: Compare | None = None) -> Judgement:
    """Return the verdict over the records of a run, in the order in which they were sent."""
    level = decide(records, asked)
    known = _known(records, endpoint, level)
    findings = tuple(found for record in records if (found := examine(record, known)) is not None)
    rates = _rates(records, known, findings)
    alarms = _alarms(findings, level)
    alarms += [_say(rate) for rate in rates if rate.alarm]
    later = [r for r in records if r.phase in (Phase.LOAD, Phase.AFTER) and r.answer.ended]
    compared = sum(
        level.of(record.phase) is not Compare.MEASURES or record.prompt.kind in known.checked
        for record in later
    )
    verdict = Verdict.RIGHT if compared else Verdict.UNJUDGED
    return Judgement(
        verdict=Verdict.WRONG if alarms else verdict,
        level=level,
        findings=findings,
        rates=rates,
        alarms=tuple(alarms),
        checked=tuple(sorted(known.checked)),
        compared=compared,
    )


def _known(records: Sequence[Record], endpoint: Endpoint, level: Level) -> Known:
    answers = references(records)
    owners: dict[str, list[str]] = defaultdict(list)
    codes: dict[str, set[str]] = defaultdict(set)
    right: dict[Kind, list[bool]] = defaultdict(list)
    for record in records:
        prompt = record.prompt
        for code in prompt.codes:
            codes[code].add(f"family {prompt.family}{'ab'[prompt.member]}")
        if record.phase in ALONE and record.round == 0 and record.answer.ended:
            right[prompt.kind].append(healthy(prompt, record.answer, endpoint))
    for name, answer in answers.items():
        if len(answer.text) >= LEAST_SAME:
            owners[answer.text].append(name)
    # A text that several prompts have says nothing about where an answer is from.
    alone = {text: names for text, names in owners.items() if len(names) == 1}
    return Known(
        references=answers,
        owners=alone,
        codes={code: " and ".join(sorted(names)) for code, names in codes.items()},
        level=level,
        endpoint=endpoint,
        checked=frozenset(k for k, found in right.items() if sum(found) >= GOOD * len(found)),
    )


def _alarms(findings: Iterable[Finding], level: Level) -> list[str]:
    counts = Counter(found.sign for found in findings)
    alarms = [f"{counts[sign]} × {sign.value}" for sign in GRAVE if counts[sign]]
    if counts[Sign.DIFFERS] >= FEW:
        alarms.append(f"{counts[Sign.DIFFERS]} × {Sign.DIFFERS.value} from its own answer alone")
    if level.changed:
        alarms.append("prompts that had the same answer twice soon had others, all alone")
    return alarms


def _rates(
    records: Sequence[Record], known: Known, findings: Sequence[Finding]
) -> tuple[Rate, ...]:
    whole = [record for record in records if record.answer.ended]
    before = [r for r in whole if r.phase in ALONE and r.round == 0]
    habits = Habits([(r.prompt.name, r.answer.text) for r in before])
    values: dict[str, Callable[[Record], float | None]] = {
        "loop": lambda r: looping(r.answer.text),
        "bits a character": lambda r: habits.bits(r.prompt.name, r.answer.text),
        "nats a token": lambda r: surprise(r.answer),
    }
    rates: list[Rate] = []
    for phase in (Phase.LOAD, Phase.AFTER):
        # A later round's answers alone come after load, too.
        later = [
            r for r in whole
            if r.phase is phase or (phase is Phase.AFTER and r.phase in ALONE and r.round > 0)
        ]  # fmt: skip
        for kind in Kind:
            quiet = [r for r in before if r.prompt.kind is kind]
            loaded = [r for r in later if r.prompt.kind is kind]
            rates.append(_wrong(kind, phase, loaded, quiet, known.endpoint))
            good = kind in known.checked
            rates += [_range(n, of, kind, phase, loaded, quiet, good) for n, of in values.items()]
    every = [*rates, *_apart(findings, whole, known), *_early(whole, known), *_later(whole, known)]
    limit = FALSE_ALARM / len(every)
    return tuple(_limited(rate, limit) for rate in every)


def _limited(rate: Rate, limit: float) -> Rate:
    return Rate(**{**rate.__dict__, "limit": limit})


def _wrong(
    kind: Kind, phase: Phase, loaded: list[Record], quiet: list[Record], endpoint: Endpoint
) -> Rate:
    bad, quiet_bad = (
        sum(not healthy(r.prompt, r.answer, endpoint) for r in some) for some in (loaded, quiet)
    )
    name = "code not found" if kind is Kind.NEEDLE else "numbers out of order"
    return Rate(
        name=name, kind=kind, phase=phase, bad=bad, of=len(loaded), quiet_bad=quiet_bad,
        quiet_of=len(quiet), p=fisher(bad, len(loaded), quiet_bad, len(quiet)), limit=0.0,
    )  # fmt: skip


def _range(
    name: str,
    of: Callable[[Record], float | None],
    kind: Kind,
    phase: Phase,
    loaded: list[Record],
    quiet: list[Record],
    checked: bool,
) -> Rate:
    ranges = [value for r in quiet if (value := of(r)) is not None]
    found = [(r.prompt, value) for r in loaded if (value := of(r)) is not None]
    largest, smallest = max(ranges, default=0.0), min(ranges, default=0.0)
    above = [prompt for prompt, value in found if value > largest + LITTLE[name] / 2]
    far = [prompt for prompt, value in found if value > 2 * largest - smallest + LITTLE[name]]
    # A model that can't do what it is asked may say anything.
    known = checked and len(ranges) >= LEAST_RANGE
    return Rate(
        name=name, kind=kind, phase=phase, bad=len(above), of=len(found), quiet_bad=0,
        quiet_of=len(ranges),
        p=exceeding(len(above), len(found), len(ranges)) if known and _several(above) else 1.0,
        limit=0.0, far=len(far) if known and _several(far) else 0,
    )  # fmt: skip


def _several(prompts: Sequence[Prompt]) -> bool:
    # One prompt that is unlike the others is no fault of the server's.
    return len({prompt.name for prompt in prompts}) >= FAR_OUT


def _apart(findings: Sequence[Finding], whole: Sequence[Record], known: Known) -> list[Rate]:
    """Answers that left their reference and are right: more often than repeats and twins did?

    Of characters compared, as many places to part in each: binomial, given how many did.
    """
    if known.level.compare is Compare.MEASURES:
        return []
    parted = [f for f in findings if f.sign is Sign.APART]
    names = {f.record.number for f in parted}
    characters = sum(f.place for f in parted) + sum(
        len(r.answer.text)
        for r in whole
        if r.phase in (Phase.LOAD, Phase.AFTER) and r.number not in names
    )
    every = characters + known.level.characters
    p = (characters / every) ** len(parted) if every else 1.0
    return [
        Rate(
            name=Sign.APART.value, kind=None, phase=Phase.LOAD, bad=len(parted), of=len(whole),
            quiet_bad=0, quiet_of=known.level.pairs, p=p, limit=0.0,
        )
    ]  # fmt: skip


def _early(whole: Sequence[Record], known: Known) -> list[Rate]:
    """Answers that leave their reference at its very start, against twins that do.

    Where answers repeat alone and not in company, and nobody can see how near a choice was. What
    tips near choices tips those of twins, too, and anywhere in an answer.
    """
    if known.level.alone is Compare.MEASURES or known.level.compare is not Compare.MEASURES:
        return []
    counts: dict[Phase, list[bool]] = {Phase.LOAD: [], Phase.TWINS: []}
    for record in whole:
        reference = known.references.get(record.prompt.name)
        if record.phase in counts and reference is not None:
            found = difference(reference, record.answer)
            early = found is not None and found.place < len(reference.text) / EARLY
            counts[record.phase].append(early)
    load, twins = counts[Phase.LOAD], counts[Phase.TWINS]
    return [
        Rate(
            name="differs from the start", kind=None, phase=Phase.LOAD, bad=sum(load),
            of=len(load), quiet_bad=sum(twins), quiet_of=len(twins),
            p=fisher(sum(load), len(load), sum(twins), len(twins)), limit=0.0,
        )
    ]  # fmt: skip


def _later(whole: Sequence[Record], known: Known) -> list[Rate]:
    """Answers alone that differ from the first ones: more often later than at once?

    Where a prompt has several answers anyway. The first two were made without the prefix cache.
    """
    if known.level.alone is not Compare.MEASURES:
        return []
    counts: dict[bool, list[bool]] = {True: [], False: []}
    for record in whole:
        reference = known.references.get(record.prompt.name)
        if record.phase in (Phase.AGAIN, Phase.REPEAT, Phase.AFTER) and reference is not None:
            parted = difference(reference, record.answer) is not None
            counts[record.phase is Phase.AGAIN].append(parted)
    at_once, later = counts[True], counts[False]
    return [
        Rate(
            name="differs later", kind=None, phase=Phase.AFTER, bad=sum(later), of=len(later),
            quiet_bad=sum(at_once), quiet_of=len(at_once),
            p=fisher(sum(later), len(later), sum(at_once), len(at_once)), limit=0.0,
        )
    ]  # fmt: skip


def _say(rate: Rate) -> str:
    kind = f" ({rate.kind.value})" if rate.kind else ""
    if rate.far >= FAR_OUT:
        return f"{rate.name}{kind}: {rate.far} answers far beyond all that were given alone"
    return (
        f"{rate.name}{kind}: {rate.bad} of {rate.of} in phase {rate.phase.value}, alone "
        f"{rate.quiet_bad} of {rate.quiet_of}; by chance once in {1 / max(rate.p, 1e-12):.0f}"
    )
