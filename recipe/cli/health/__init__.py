# SPDX-License-Identifier: Apache-2.0
"""The verb doctor: whether this machine and this cache are fit for what the other verbs do.

Takes a project and the platform that wheels are for. Gives findings: a fact, who needs it, what to
type; and mends what is kept and damaged.
"""
