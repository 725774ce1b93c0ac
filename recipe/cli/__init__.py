# SPDX-License-Identifier: Apache-2.0
"""The command line: what is typed, what is answered, what becomes of an error.
Takes arguments.
Gives a text for a person, one JSON document with --json, and an exit code.
"""
