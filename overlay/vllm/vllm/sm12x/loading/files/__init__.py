# SPDX-License-Identifier: Apache-2.0
"""The shards of a checkpoint while it is loaded.

In: paths of safetensors files. Out: their headers, tensors and pages, and who still reads which
part of them; pages that nobody needs any more are given back.
"""
