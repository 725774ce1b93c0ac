# SPDX-License-Identifier: Apache-2.0
"""A wheel held against the devices that were asked for.
Takes the GPU code of a wheel, a base and the devices.
Gives what each device gets and lacks, and how that differs from another wheel.
"""
