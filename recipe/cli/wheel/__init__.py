# SPDX-License-Identifier: Apache-2.0
"""The verbs that make wheels or look at them, one module a verb with its options.
Takes parsed options and the project.
Gives a text for a person and a JSON document.
"""
