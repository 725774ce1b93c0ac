# SPDX-License-Identifier: Apache-2.0
"""Every operator on this machine's GPU against its reference: python -m vllm.sm12x.selftest.

In: cases (`cases` for attention, `cases_logits` and `cases_products` for what stands in for
DeepGEMM). Out: a verdict and timings of each (`verdicts` judges, `run` runs
and prints). `start` looks first whether there is anything to run them with.
"""
