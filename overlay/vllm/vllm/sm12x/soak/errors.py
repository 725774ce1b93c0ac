# SPDX-License-Identifier: Apache-2.0
"""What ends a run before it has a result, and the exit codes of all of it."""

RIGHT = 0
REFUSED = 2
WRONG = 7
NO_SERVER = 8
INTERRUPTED = 130


class SoakError(Exception):
    """The run can't be made as it was asked for; the text says what to type instead."""

    exit_code = REFUSED


class NoServerError(SoakError):
    """Nothing at the address answers."""

    exit_code = NO_SERVER
