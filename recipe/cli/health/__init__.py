# SPDX-License-Identifier: Apache-2.0
"""The verb doctor: is this machine, and is the cache, fit for what the other verbs do?
Takes a project and the platform that wheels are for.
Gives findings, each with who needs it and what to type, and mends what is kept and damaged.
"""
