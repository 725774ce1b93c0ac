# SPDX-License-Identifier: Apache-2.0
"""What becomes of a patch when upstream moves on.
Takes one patch, the releases it is for and the trees of others.
Gives its outcome there: as it is, adapted, upstreamed (with evidence), in conflict.
"""
