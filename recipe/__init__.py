# SPDX-License-Identifier: Apache-2.0
"""The program behind build.py: pins + series + overlay become tested wheels."""
