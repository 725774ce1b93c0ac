# SPDX-License-Identifier: Apache-2.0
"""GPU code: what an architecture list asks for and what a shared object holds.
Takes TORCH_CUDA_ARCH_LIST, upstream's CMake, ELF files with their fat binaries.
Gives a verdict for each device: native, family, PTX, none.
"""
