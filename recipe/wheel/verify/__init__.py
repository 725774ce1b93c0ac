# SPDX-License-Identifier: Apache-2.0
"""Whether a wheel is, to the byte, what this repository makes of upstream's.
Takes a wheel somebody hands in, upstream's published one and the change that the repository makes.
Gives what isn't as it must be, each with the member's name.
"""
