# SPDX-License-Identifier: Apache-2.0
"""Faults put into the overlay, and the tests that see them: for `benchmarks/mutation.py`.

In: a package's modules, a wheel's test environment, a session's folder. Out: for each mutant the
test that kills it, or none, and `benchmarks/mutation.json`. `draw` makes mutants, `faults` names
those that a person thought of, `measured` knows the tests of a line, `place` starts the `worker`,
`trial` tries, `record` writes down.
"""
