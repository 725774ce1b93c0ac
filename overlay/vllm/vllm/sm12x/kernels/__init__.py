# SPDX-License-Identifier: Apache-2.0
"""Sparse MLA in Triton for SM12x: plain tensors in, plain tensors out, nothing of vLLM."""
