# SPDX-License-Identifier: Apache-2.0
"""Whatever the recipe reads, made wrong in many ways: it is refused, and nothing falls over.
Takes the parsers of tests/fuzz/parsers, and for each what real files hold (corpus/, repository).
Gives how many inputs were tried and what fell over, and keeps the inputs that did it.
"""
