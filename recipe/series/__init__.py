# SPDX-License-Identifier: Apache-2.0
"""The patches and the overlay: what they say of themselves, and how they go on a base.
Takes patches/, series.txt, overlay/ and a base's commit.
Gives each topic's state on that base, and the patched tree: exact, or an error.
"""
