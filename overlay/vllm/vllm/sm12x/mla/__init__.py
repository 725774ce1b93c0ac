# SPDX-License-Identifier: Apache-2.0
"""What vLLM's sparse MLA seams call. These modules import vLLM, and only SM12x loads them."""
