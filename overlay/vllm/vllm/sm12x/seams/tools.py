# SPDX-License-Identifier: Apache-2.0
"""Whether this process is `python -m vllm.sm12x.TOOL`, asked while vLLM is being imported.

Those tools look at an installation in which torch may be missing or broken, or need none of it.
Nothing may be imported here that isn't in the standard library.
"""

import re
import sys

# Alone, or behind the letters of one word: -mvllm.sm12x.doctor, -Imvllm.sm12x.doctor.
_OURS = re.compile(r"(?:-\w*m)?vllm\.sm12x\.")


def started() -> bool:
    """Return whether Python is looking for a module of the overlay's that `-m` named.

    sys.argv starts with -m until the module is found, and ends as the whole command line does.
    """
    arguments = getattr(sys, "argv", [])
    if arguments[:1] != ["-m"]:
        return False
    return bool(_OURS.match(sys.orig_argv[-len(arguments)]))
