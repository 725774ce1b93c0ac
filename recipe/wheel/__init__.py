# SPDX-License-Identifier: Apache-2.0
"""Our wheel, made from upstream's byte for byte, and what it says of itself.
Takes a published wheel, the changed files, compiled members and where all is from.
Gives a checked wheel with its tag, record and bill of materials.
"""
