# SPDX-License-Identifier: Apache-2.0
"""python -m vllm.sm12x.soak URL; `--help` says more."""

import sys

from .cli import main

sys.exit(main())
