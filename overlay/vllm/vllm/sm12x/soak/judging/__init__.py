# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an answer, and with all of them together."""
