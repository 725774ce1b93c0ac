# SPDX-License-Identifier: Apache-2.0
#
# Code for DGX Spark (sm_121) itself, where it is asked for by name: 12.1a or 12.1f.
#
# vLLM's list for CUDA 13 ends at 12.0, and its function that picks architectures turns all of 12.x
# into that. Both chips run the 12.0f code that comes out, so a plain 12.1 stays as it is.
if(VLLM_GPU_LANG STREQUAL "CUDA" AND CUDA_ARCHS MATCHES "12\\.1[af]"
   AND NOT "12.1" IN_LIST CUDA_SUPPORTED_ARCHS)
  list(APPEND CUDA_SUPPORTED_ARCHS "12.1")
  message(STATUS "12.1 is among the supported architectures: ${CUDA_ARCHS} asks for it by name")
endif()
