# SPDX-License-Identifier: Apache-2.0
"""What the report reads off machine code: control words, loops, phases and floors."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import sass


def line(address: int, text: str, *, stall: int, sets: int = 7, waits: int = 0) -> str:
    """Two lines as cuobjdump prints them: an instruction and the word that rules its issue."""
    word = stall << 41 | 1 << 45 | sets << 46 | 7 << 49 | waits << 52
    blanks = " " * 40
    return f"  /*{address:04x}*/ {text} ; /* 0x0 */\n{blanks} /* 0x{word:016x} */\n"


def listing(*instructions: tuple[str, int]) -> str:
    return "".join(line(16 * i, text, stall=stall) for i, (text, stall) in enumerate(instructions))


MMA = "HMMA.16816.F32.BF16 R4, R8, R12, R4"
BARRIER = "BAR.SYNC.DEFER_BLOCKING 0x0"


def test_control_words_say_when_a_warp_may_go_on() -> None:
    load = line(0, "LDG.E R2, desc[UR4][R2.64]", stall=2, sets=3)
    use = line(16, "@P0 IADD3 R2, PT, PT, R2, R3, RZ", stall=15, waits=1 << 3)
    first, second = sass.parse(load + use)
    assert (first.stall, first.sets, first.waits) == (2, frozenset({3}), frozenset())
    assert (second.stall, second.sets, second.waits) == (15, frozenset(), frozenset({3}))


def test_a_reading_that_cannot_be_right_is_refused() -> None:
    with pytest.raises(sass.ToolError, match=r"\[4\] are waited for and never set"):
        sass.parse(line(0, "IADD3 R2, PT, PT, R2, R3, RZ", stall=1, waits=1 << 4))


def test_a_loop_has_the_floor_and_the_phases_of_its_stall_counts() -> None:
    code = sass.parse(
        listing(
            ("MOV R1, R2", 9),
            ("LOP3.LUT R2, R2, 0xff, RZ, 0xc0, !PT", 5),
            (BARRIER, 6),
            (MMA, 15),
            (MMA, 16 - 1),
            (BARRIER, 6),
            ("MUFU.EX2 R1, R2", 4),
            (BARRIER, 6),
            (MMA, 15),
            ("@P0 BRA 0x10", 5),
            ("EXIT", 5),
        )
    )
    (loop,) = sass.innermost_loops(code)
    assert loop.stalls == 5 + 6 + 15 + 15 + 6 + 4 + 6 + 15 + 5
    assert loop.tensor == 3 * 16
    assert [(phase.work.value, phase.stalls, phase.products) for phase in loop.phases] == [
        ("dequantise", 11, 0), ("QK", 36, 2), ("softmax", 10, 0), ("PV", 20, 1),
    ]  # fmt: skip


def test_of_several_loops_the_one_that_takes_longest_counts() -> None:
    short = sass.Loop(code=(sass.Instruction(address=0, name="HMMA", operands="", stall=15),))
    long = sass.Loop(code=2 * (sass.Instruction(address=0, name="HMMA", operands="", stall=1),))
    assert sass.Code(registers=1, stack=0, loops=(long, short)).hot is short


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(255, 79360, 4, 1), (168, 33 << 10, 4, 2), (168, 24 << 10, 4, 3), (80, 40 << 10, 4, 2)],
)
def test_programs_of_an_sm_share_registers_and_memory(
    registers: int, shared: int, warps: int, programs: int
) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    from benchmarks.compiled import programs_per_sm

    assert programs_per_sm(registers, shared, warps) == programs
