# SPDX-License-Identifier: Apache-2.0
"""What compiles, and which published components a compile would make otherwise.
Takes a patched tree, architectures and the inner sources.
Gives builds as CMake has them, reasons to compile, and compiled members.
"""
