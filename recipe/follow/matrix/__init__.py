# SPDX-License-Identifier: Apache-2.0
"""Topic by release: what every topic is on every pinned release.
Takes the series and the trees of all bases.
Gives a Matrix, stored by what it depends on, as JSON, a text and a web page.
"""
