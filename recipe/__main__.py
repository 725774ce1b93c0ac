# SPDX-License-Identifier: Apache-2.0
"""``python -m recipe``: what build.py hands over to."""

import os
import signal
import sys


def start() -> int:
    """The exit code. build.py holds Ctrl-C back until here, where it can be answered."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # Before the imports: what is imported may read them, and they aren't ours.
        from recipe.ground.environments.callers import dropped

        for name in dropped(os.environ):
            del os.environ[name]
        from recipe.cli.main import main

        return main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        print(
            f"error: the environment {sys.prefix} is damaged: {error}\n"
            f"  next: rm -r {sys.prefix}   # python build.py makes it anew",
            file=sys.stderr,
        )
        return 8


if __name__ == "__main__":
    status = start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is Python's own end
    sys.exit(status)
