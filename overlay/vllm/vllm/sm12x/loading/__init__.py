# SPDX-License-Identifier: Apache-2.0
"""How a checkpoint gets from its files into parameters; two seams call `seam` and `llama4`.

In: the files and arguments of upstream's iterators. `gather` asks for the facts, `policy` decides.
Out: names and tensors as upstream's iterators give them, by its own way, a window or a stream.
Rooms: `facts` and `files` are the ground, `window` and `stream` stand on them, beside each other.
"""
