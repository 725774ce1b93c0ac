# SPDX-License-Identifier: Apache-2.0
#
# SM12X_ARCHS: what an architecture list needs so that its sources are compiled for RTX PRO 6000 and
# RTX 5090 (sm_120) and for DGX Spark GB10 (sm_121).
#
# - CUDA >= 13 has the family target 12.0f: one image that both chips run. Plain 12.0 would lack the
#   FP4 and FP8 instructions of the family, and 12.1 is not among vLLM's supported architectures there.
# - CUDA 12.8 and 12.9 are given one architecture-specific image a chip, since vLLM keeps 12.1 there.
# - An older compiler knows neither; the list stays as it was.
#
# A plain set() without a guard: include it wherever a list needs it, after find_package(Torch), which
# is what defines CMAKE_CUDA_COMPILER_VERSION.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
  set(SM12X_ARCHS "12.0f")
elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(SM12X_ARCHS "12.0a;12.1a")
else()
  set(SM12X_ARCHS "")
endif()
