# SPDX-License-Identifier: Apache-2.0
"""The series moved to another release, patch by patch.
Takes the release, where the series is known to apply, and a person's answers.
Gives patch files and a series for it, or a stop with a work tree to resolve in.
"""
