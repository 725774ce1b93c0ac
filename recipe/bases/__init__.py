# SPDX-License-Identifier: Apache-2.0
"""The pinned upstream releases, and how their archives and sources are had.
Takes bases.toml, the package index, a git address or a folder.
Gives a Base with its pins, verified archives, and its source as a commit.
"""
