# SPDX-License-Identifier: Apache-2.0
"""``python -m recipe``: what build.py hands over to."""

import os
import sys

from recipe.cli import main

# They were for this process; an interpreter we start finds its modules and its cache by itself.
for name in ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONPYCACHEPREFIX"):
    os.environ.pop(name, None)

sys.exit(main(sys.argv[1:]))
