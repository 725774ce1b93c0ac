# SPDX-License-Identifier: Apache-2.0
"""From a release to a tested wheel in dist/.
Takes a base and the options of `build`.
Gives a plan before anything is done, then the wheel and its report.
"""
