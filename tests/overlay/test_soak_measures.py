# SPDX-License-Identifier: Apache-2.0
"""What the soak's verdict is made of, each part against what it must be."""

import random
from itertools import combinations

import pytest
from vllm.sm12x.soak.asking.prompts import Kind, conversations
from vllm.sm12x.soak.asking.schedule import LEAST, ROUND, share
from vllm.sm12x.soak.judging.compare import difference, drift
from vllm.sm12x.soak.judging.measures import Habits, counted, foreign, looping
from vllm.sm12x.soak.judging.rates import exceeding, fisher
from vllm.sm12x.soak.server.answers import Answer, Outcome, Token
from vllm.sm12x.soak.server.discover import Endpoint, Feature, Server
from vllm.sm12x.soak.server.stream import BadStreamError, Parts, lines_of_data


def server(context: int = 4000, chars: float = 4.0) -> Server:
    return Server(
        url="http://x/v1", model="m", endpoint=Endpoint.CHAT, context=context, context_from="x",
        chars_per_token=chars, chars_from="x", overhead=5, features=frozenset(Feature), extra={},
    )  # fmt: skip


def answer(*tokens: tuple[str, float, dict[str, float]], cut: bool = False) -> Answer:
    made = tuple(Token(text=t, logprob=p, top=tuple(top.items())) for t, p, top in tokens)
    return Answer(
        outcome=Outcome.CANCELLED if cut else Outcome.DONE,
        text="".join(token.text for token in made),
        tokens=made,
    )


A = ("a", -0.7, {"a": -0.7, "b": -0.8, "c": -4.0})
B = ("b", -0.69, {"b": -0.69, "a": -0.81, "c": -4.1})
C = ("c", -0.1, {"c": -0.1, "a": -3.0, "b": -3.1})


@pytest.mark.parametrize(("of", "quiet"), [(6, 4), (5, 5), (3, 7)])
def test_the_exact_tests_count_every_choice_of_the_bad_ones(of: int, quiet: int) -> None:
    every = of + quiet
    for bad in range(of + 1):
        for quiet_bad in range(quiet + 1):
            ways = list(combinations(range(every), bad + quiet_bad))
            as_bad = sum(sum(place < of for place in way) >= bad for way in ways)
            assert fisher(bad, of, quiet_bad, quiet) == pytest.approx(as_bad / len(ways))
        highest = list(combinations(range(every), bad))
        above = sum(all(place < of for place in way) for way in highest)
        assert exceeding(bad, of, quiet) == pytest.approx(above / len(highest))


def test_without_answers_nothing_is_unlikely() -> None:
    assert fisher(3, 3, 0, 0) == fisher(0, 0, 2, 4) == exceeding(3, 3, 0) == 1.0


def test_a_near_choice_is_told_from_a_far_one() -> None:
    tie = difference(answer(C, A), answer(C, B))
    assert tie is not None
    assert tie.place == 1
    assert tie.gap == pytest.approx(0.12)
    far = difference(answer(A), answer(C))
    assert far is not None
    assert far.gap == pytest.approx(3.3)
    assert difference(answer(A, C), answer(A, C)) is None


def test_a_token_that_is_not_listed_is_at_least_as_far_as_the_last_that_is() -> None:
    other = ("z", -0.2, {"z": -0.2, "y": -2.2})
    found = difference(answer(A), answer(other))
    assert found is not None
    assert found.gap == pytest.approx(3.3)


def test_a_cancelled_answer_is_held_to_what_came_of_it() -> None:
    assert difference(answer(A, C), answer(A, cut=True)) is None
    assert difference(answer(A, C), answer(A)) is not None
    assert difference(answer(A, C), answer(C, cut=True)) is not None


def test_drift_is_taken_where_both_go_together() -> None:
    moved = ("a", -0.75, {"a": -0.75, "b": -0.75, "c": -4.0})
    assert drift(answer(A, C), answer(moved, C)) == pytest.approx(0.1)
    assert drift(answer(C, A), answer(C, B)) == 0.0
    assert drift(answer(A, C, C), answer(moved, C, A), share=0.5) == pytest.approx(0.1)
    assert drift(answer(C, A, C), answer(C, moved, A), share=0.5) == 0.0


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0), ("!" * 40, 1, 1), ("The code is here. " + "ab " * 30, 0.8, 1),
        ("The access code of the mill is KV-48291.", 0, 0),
        ("".join(f"{n} KV-48291\n" for n in range(1, 60)), 0, 0.3),
    ],
)  # fmt: skip
def test_a_loop_is_the_share_of_the_text_that_it_makes(
    text: str, least: float, most: float
) -> None:
    assert least <= looping(text) <= most


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("1 KV-48291\n2 KV-48291\n3 KV-48291\n4 KV-48", 1, 1),
        ("Let me count.\n\n1. **KV-48291**\n2. **KV-48291**\n3. **KV-48291**\n4", 1, 1),
        ("1 KV-48291\n3 KV-48291\n2 KV-48291\n7 KV-48291\n", 0, 0.5),
        ("1 XX-11111\n2 XX-11111\n3 XX-11111\n4", 0, 0), ("1 KV-48291\n2", 0, 0), ("", 0, 0),
    ],
)  # fmt: skip
def test_counting_is_judged_line_by_line(text: str, least: float, most: float) -> None:
    assert least <= counted(text, "KV-48291") <= most


def test_garbled_text_has_more_bits_than_text_of_the_same_kind() -> None:
    rng = random.Random(1)
    said = [f"The access code of the {w} is on page {n}." for n, w in enumerate(("mill", "barn"))]
    habits = Habits([(str(n), text) for n, text in enumerate(said * 6)])
    alike = habits.bits("x", "The access code of the barn is on page 7.")
    garbled = habits.bits("x", "".join(rng.sample(said[0] * 2, 40)))
    assert alike is not None
    assert garbled is not None
    assert garbled > alike + 1
    assert habits.bits("x", "short") is None


def test_an_answer_s_own_prompt_does_not_make_it_likely() -> None:
    with_own = Habits([("a", "zqzqzqzqzqzqzqzqzqzq"), ("b", "the code of the mill")])
    without = Habits([("b", "the code of the mill")])
    text = "zqzqzqzqzqzqzqzqzqzq"
    assert with_own.bits("a", text) == pytest.approx(without.bits("a", text))


@pytest.mark.parametrize(("context", "chars"), [(1200, 4.0), (4000, 1.0), (200_000, 3.7)])
def test_prompts_fit_the_context_and_reach_its_end(context: int, chars: float) -> None:
    made = conversations(
        server(context, chars), families=6, depths=(0.1, 0.5, 0.9), answer_tokens=64,
        count_tokens=128, seed=3,
    )  # fmt: skip
    for conversation in made:
        for prompt in conversation.prompts:
            text = "".join(text for _, text in prompt.messages)
            assert len(text) / chars + prompt.max_tokens < context
    longest = max(c.size for c in made) / chars
    assert longest > 0.85 * context - 128 - 700 / chars


def test_families_differ_in_one_sentence_at_their_depth() -> None:
    made = conversations(
        server(), families=6, depths=(0.1, 0.5, 0.9), answer_tokens=64, count_tokens=64, seed=3
    )
    for one, other in zip(made[::2], made[1::2], strict=True):
        first, second = one.prompts[0], other.prompts[0]
        texts = [p.messages[0][1] for p in (first, second)]
        place = next(i for i, (a, b) in enumerate(zip(*texts, strict=True)) if a != b)
        # A code begins or ends in the same letter now and then.
        assert place / len(texts[0]) == pytest.approx(first.depth, abs=0.12)
        assert (place < 5) == first.early
        assert first.expected in texts[0] and first.expected not in texts[1]
        assert first.codes & second.codes == {one.prompts[1].expected}
        crossed = Answer(outcome=Outcome.DONE, text=f"It is **{second.expected.lower()}**.")
        assert foreign(first, crossed, second.codes | first.codes) == [second.expected]
        assert one.prompts[2].kind is Kind.COUNT


@pytest.mark.parametrize("concurrency", [1, 4, 64])
def test_every_request_of_a_round_has_its_use(concurrency: int) -> None:
    for requests in range(LEAST, ROUND + 2 * LEAST + 1):
        for first in (True, False):
            shares = share(requests, concurrency, first=first)
            assert shares.load > 0
            used = shares.quiet + shares.pairs + shares.repeats + shares.load + shares.after
            assert used + shares.twins * shares.width == requests


def test_events_are_read_whatever_their_lines_are() -> None:
    lines = [b": ping\n", b"data: one\r\n", b"\r\n", b"event: x\n", b"data: a\n", b"data: b\n",
             b"\n", b"data:last\n"]  # fmt: skip
    assert list(lines_of_data(iter(lines))) == ["one", "a\nb", "last"]


def test_thoughts_and_answer_are_one_text() -> None:
    parts = Parts()
    parts.take('{"choices": [{"delta": {"role": "assistant", "content": ""}}]}')
    parts.take('{"choices": [{"delta": {"reasoning_content": "hm", "reasoning": "hm"}}]}')
    parts.take('{"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}')
    assert ("".join(parts.texts), parts.complete) == ("hmyes", True)


@pytest.mark.parametrize("data", ["{", "[]", '{"error": {"message": "out of memory"}}'])
def test_what_is_no_event_is_an_error(data: str) -> None:
    with pytest.raises(BadStreamError):
        Parts().take(data)
