# SPDX-License-Identifier: Apache-2.0
"""Every operator on this machine's GPU against its float64 reference, with timings.

python -m vllm.sm12x.selftest [--json] [--quick] [--interpret]

Needs a GPU of capability 12.x; without one it says what it would have run and exits 0. Exit code 7
when an operator is wrong, 8 when this installation lacks what operators are made of. `--interpret`
with TRITON_INTERPRET=1 runs small cases without a GPU.
"""

import argparse
import os

# As Triton reads its variables.
TRUE = ("1", "true", "yes", "on", "y")


def read(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm.sm12x.selftest", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument("--quick", action="store_true", help="few shapes of each operator")
    parser.add_argument("--interpret", action="store_true", help="small cases on Triton's CPU path")
    options = parser.parse_args(arguments)
    if options.interpret and os.environ.get("TRITON_INTERPRET", "").lower() not in TRUE:
        parser.error("--interpret needs TRITON_INTERPRET=1 in the environment")
    return options
