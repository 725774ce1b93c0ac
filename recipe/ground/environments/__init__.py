# SPDX-License-Identifier: Apache-2.0
"""Python environments that are made once and kept, by a pip that the caller's settings don't turn.
Takes requirements, an interpreter and the cache folder; only ground stands below.
Gives an environment that holds what was asked for, or says what is missing and what to type.
"""
