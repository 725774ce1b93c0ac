# SPDX-License-Identifier: Apache-2.0
"""A package index as a folder that any web server can hand out: pip and uv install from it.
Takes finished wheels and the folder with what was published before.
Gives pages in HTML and JSON, metadata beside each wheel, and a look at it over this machine's HTTP.
"""
