# SPDX-License-Identifier: Apache-2.0
"""Speaks to a server: its address, what it is, requests, and answers as they stream in."""
