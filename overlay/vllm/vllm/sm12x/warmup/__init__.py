# SPDX-License-Identifier: Apache-2.0
"""Kernels are compiled before the first request: those of `attention`, and of `gemm` beside it.

In: vLLM's configuration of a model. Out: the variants of kernels that it will use, and a call of
each, on a device.
"""
