set(CUTLASS_REVISION "v4.4.2" CACHE STRING "CUTLASS revision to use")
if(DEFINED ENV{VLLM_CUTLASS_SRC_DIR})
  set(VLLM_CUTLASS_SRC_DIR $ENV{VLLM_CUTLASS_SRC_DIR})
endif()
if(VLLM_CUTLASS_SRC_DIR)
  FetchContent_Declare(cutlass SOURCE_DIR ${VLLM_CUTLASS_SRC_DIR})
else()
  FetchContent_Declare(
    cutlass
    GIT_REPOSITORY https://github.com/nvidia/cutlass.git
    GIT_TAG ${CUTLASS_REVISION}
    GIT_SUBMODULES "" # none
  )
endif()
if(DEFINED CMAKE_CUDA_COMPILER_VERSION AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
  set(CUDA_SUPPORTED_ARCHS "7.5;8.0;9.0;10.0;12.0")
else()
  set(CUDA_SUPPORTED_ARCHS "7.5;8.0")
endif()
add_custom_target(_deep_gemm_C ALL)
define_extension_target(_C SOURCES ${cutlass_SOURCE_DIR}/a.cu)
