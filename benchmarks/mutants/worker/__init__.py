# SPDX-License-Identifier: Apache-2.0
"""What tries mutants, in the Python of a wheel's test environment and with its pytest.

In: a mutant's text and tests, a line of JSON each (`Request`). Out: which test saw it.
Nothing here needs more than that environment has, so cosmic-ray stays outside; `mutated` is what
processes that a test starts import, too.
"""
