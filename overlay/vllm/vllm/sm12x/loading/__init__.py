# SPDX-License-Identifier: Apache-2.0
"""Loading checkpoints: where the files are, what memory holds, and what to read ahead."""
