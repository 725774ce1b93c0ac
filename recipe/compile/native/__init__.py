# SPDX-License-Identifier: Apache-2.0
"""What becomes of each compiled extension of a wheel: reused, left stale, or compiled.
Takes a patched tree on a base, what --native asks for, and upstream's wheel.
Gives every component with its action and why, and the members that were compiled.
"""
