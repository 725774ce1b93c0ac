# SPDX-License-Identifier: Apache-2.0
"""Plain PyTorch versions of the operators: what the kernels are held to. Slow, and meant to be."""
