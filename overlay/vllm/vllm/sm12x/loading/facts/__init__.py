# SPDX-License-Identifier: Apache-2.0
"""What the machine is asked before a load, and nothing judged.

In: paths, and what the kernel and the process group say. Out: file systems and sizes, the memory
that a page cache can get, the ranks that load the same files on this machine.
"""
