# SPDX-License-Identifier: Apache-2.0
"""python -m vllm.sm12x.recipes"""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
