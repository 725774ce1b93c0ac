# SPDX-License-Identifier: Apache-2.0
"""Operators under the signatures that vLLM calls: arguments are checked here, kernels run below."""
