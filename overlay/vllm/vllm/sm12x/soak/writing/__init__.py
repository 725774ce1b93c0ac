# SPDX-License-Identifier: Apache-2.0
"""The result as a text, a JSON document and a web page."""
