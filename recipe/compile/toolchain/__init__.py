# SPDX-License-Identifier: Apache-2.0
"""What a compile needs of a machine: compilers, CUDA, torch, caches, memory.
Takes a base and what the machine and the package index have.
Gives an environment to compile in, or says what is lacking and how to get it.
"""
