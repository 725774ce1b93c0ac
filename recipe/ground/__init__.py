# SPDX-License-Identifier: Apache-2.0
"""What every other package stands on: errors, processes, locks, logs, whole files.
Takes commands, folders and texts; knows nothing of vLLM.
Gives what they answered, or an error with its exit code and what to type next.
"""
