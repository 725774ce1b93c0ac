# SPDX-License-Identifier: Apache-2.0
"""The sources that upstream's CMake fetches: CUTLASS, DeepGEMM, FlashMLA and others.
Takes what CMake declares, the pins, and what a person names with --sources.
Gives a folder for each, real where something is built of it, named by its tree id.
"""
