# SPDX-License-Identifier: Apache-2.0
"""Comments and docstrings are told from code: people word the same thing alike."""

from __future__ import annotations

import pytest

from recipe.follow.prose import prose_lines

PYTHON = b'''\
"""Of the module."""
import os  # code with a comment
# a comment
def f():
    """Several
    lines."""
    text = """no
    docstring"""
    return text  # "#"
class A: "of a class"
'''
CUDA = b"""\
// a comment
int a = 1; // code
/* several
 * lines
 */
const char *s = "// no comment";
  /* before */ int b;
"""


@pytest.mark.parametrize(
    ("path", "content", "lines"),
    [
        ("vllm/a.py", PYTHON, {1, 3, 5, 6}),
        ("csrc/a.cu", CUDA, {1, 3, 4, 5}),
        ("CMakeLists.txt", b"# said\nset(A 1) # code\n", {1}),
        ("vllm/broken.py", b"# said\ndef f(:\n  '''never closed\n", {1}),
        ("data.json", b"# what is that\n", set()),
    ],
)
def test_the_lines_that_speak_to_people(path: str, content: bytes, lines: set[int]) -> None:
    assert prose_lines(path, content) == lines
