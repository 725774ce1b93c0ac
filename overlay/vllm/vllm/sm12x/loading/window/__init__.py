# SPDX-License-Identifier: Apache-2.0
"""Fill the page cache a bounded piece ahead of a load.

In: a checkpoint, how far ahead, and which ranks share the work. Out: names and mapped tensors,
whose pages are there when they are touched.
"""
