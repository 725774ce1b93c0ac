# SPDX-License-Identifier: Apache-2.0
"""Read what a rank takes into a few buffers, and nothing else.

In: a checkpoint, and the bytes and threads allowed. Out: names and lazy tensors, each of which
reads what it has been narrowed to when it is copied.
"""
