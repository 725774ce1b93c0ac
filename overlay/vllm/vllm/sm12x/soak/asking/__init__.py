# SPDX-License-Identifier: Apache-2.0
"""What is asked, in which order, and what is kept of each answer."""
