# SPDX-License-Identifier: Apache-2.0
"""python -m vllm.sm12x.selftest"""

import sys

from .start import main

if __name__ == "__main__":
    sys.exit(main())
