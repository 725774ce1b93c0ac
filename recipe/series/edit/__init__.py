# SPDX-License-Identifier: Apache-2.0
"""Patches made and made anew from the commits of a work tree.
Takes a tree that `apply` or `new` wrote, with a person's commits on it.
Gives patch files in canonical form and the lines of series.txt that go with them.
"""
