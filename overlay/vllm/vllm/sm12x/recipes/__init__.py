# SPDX-License-Identifier: Apache-2.0
"""Configurations for `vllm serve --config`, by model and machine: python -m vllm.sm12x.recipes.

In: the `*.yaml` files beside this one; each is a configuration as vLLM reads it, and what stands
behind `#:` at its top is read here (`recipe`). Out: those that fit this machine, or another one,
with the commands that start them (`command`).
"""
