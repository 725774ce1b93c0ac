# SPDX-License-Identifier: Apache-2.0
"""``python -m recipe``: what build.py hands over to."""

import os
import sys

from recipe.cli.main import main

# They were for this process; an interpreter we start finds its modules and its cache by itself.
for name in ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONPYCACHEPREFIX"):
    os.environ.pop(name, None)
# A git hook or `git rebase --exec` sets GIT_DIR and more for the repository it runs in; our git
# works on others. How git reaches a server stays the user's choice.
for name in [name for name in os.environ if name.startswith("GIT_")]:
    if not name.startswith(("GIT_SSH", "GIT_SSL", "GIT_HTTP", "GIT_PROXY", "GIT_ASKPASS")):
        del os.environ[name]

sys.exit(main(sys.argv[1:]))
