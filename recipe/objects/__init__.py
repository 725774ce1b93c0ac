# SPDX-License-Identifier: Apache-2.0
"""The object store, and what is done on objects alone: trees, merges, hunks, archives.
Takes archives, commits, diffs; no work tree is needed.
Gives commits and trees whose ids are the same on every machine.
"""
