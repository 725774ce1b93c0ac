# SPDX-License-Identifier: Apache-2.0
"""Exact tests of whether something is more frequent under load than alone.

Both give the probability of what was seen, or of more, if load made no difference: the answers of
both kinds are then exchangeable, and every choice of which of them are the bad ones is as likely.
"""

from fractions import Fraction
from math import comb


def fisher(bad: int, of: int, quiet_bad: int, quiet_of: int) -> float:
    """Return the one-sided p-value of Fisher's exact test: bad of `of`, against those alone.

    P(X >= bad) for X hypergeometric with bad + quiet_bad bad ones among of + quiet_of.
    """
    every, all_bad = of + quiet_of, bad + quiet_bad
    if of == 0 or quiet_of == 0:
        return 1.0
    ways = sum(
        comb(of, k) * comb(quiet_of, all_bad - k)
        for k in range(bad, min(of, all_bad) + 1)
        if all_bad - k <= quiet_of
    )
    return float(Fraction(ways, comb(every, all_bad)))


def exceeding(above: int, of: int, quiet_of: int) -> float:
    """Return the probability that at least `above` of `of` values exceed the largest of the others.

    Whatever the distribution is: prod((of - i) / (of + quiet_of - i) for i < above).
    """
    if quiet_of == 0:
        return 1.0
    p = Fraction(1)
    for i in range(above):
        p *= Fraction(of - i, of + quiet_of - i)
    return float(p)
