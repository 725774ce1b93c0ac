# SPDX-License-Identifier: Apache-2.0
"""What of an installation doesn't fit together, each with what it means and what to type.

In: the metadata of installed packages, files on the disk, the words of small tools; torch needn't
be there, nor anything else. Out: `Fault`s, from `found` in `find`. `packages` holds what is
installed against what the wheel asks for, `torch_build` torch's own version file and the symbols
that extensions take from it (`elf`, `libraries`), `driver` the driver, `tools` what kernels are
compiled with when they run.
"""
