# SPDX-License-Identifier: Apache-2.0
"""What small seams in upstream's files ask for: one module a topic, each by itself."""
