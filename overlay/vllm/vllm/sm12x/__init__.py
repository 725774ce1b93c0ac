# SPDX-License-Identifier: Apache-2.0
"""vLLM on SM12x: operators, loaders and knobs that upstream's files call through thin seams."""
