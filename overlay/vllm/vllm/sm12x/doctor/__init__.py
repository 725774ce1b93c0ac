# SPDX-License-Identifier: Apache-2.0
"""What this machine has for vLLM on SM12x: python -m vllm.sm12x.doctor.

In: the machine (`machine` looks, `binaries` reads the GPU code of extensions, `host_memory` what a
GPU without memory of its own gets, `faults` finds what doesn't fit together). Out: which paths
models take and what to change (`report`), printed as text or JSON (`command`). `support` decides;
nothing is loaded.
"""
